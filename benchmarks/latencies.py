"""Measures the latency of calls that start at a constant rate."""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.population import user_id
from userservice import UserManager

_GETS_PER_SECOND = 300


async def at_rate(rate: float, goes_on: Callable[[], bool], call: Callable[[], Awaitable[Any]]) -> list[float]:
    """Starts calls at a constant rate; returns the latency of each call, in seconds from the time when it was due."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    started = loop.time()

    async def measure(due: float) -> None:
        await call()
        latencies.append(loop.time() - due)

    async with asyncio.TaskGroup() as tasks:
        number = 0
        while goes_on():
            due = started + number / rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            tasks.create_task(measure(due))
            number += 1
    return latencies


def lasting(seconds: float) -> Callable[[], bool]:
    """Returns a function that returns True for some seconds from now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


async def p99_of_gets(address: str, users: int, goes_on: Callable[[], bool]) -> float:
    """Returns the p99 of GetUser for random users, in milliseconds."""
    async with UserManager(address) as manager:
        await manager.list(limit=1)
        latencies = await at_rate(_GETS_PER_SECOND, goes_on, lambda: manager.get(user_id(random.randrange(users))))
    return statistics.quantiles(latencies, n=100)[98] * 1000
