"""Adds generated users to a service, from several processes."""

import asyncio
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from demo import population
from userservice import UserManager

_SLICE = 500  # users that one task loads
_AT_ONCE = 32  # concurrent calls of one task


def load(address: str, count: int, seed: int = 0, processes: int = 2) -> Iterator[int]:
    """Adds users 0 to count - 1 of the population. Yields the number of users that each finished task added."""
    spawn = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    with ProcessPoolExecutor(processes, spawn) as pool:
        slices = [(first, min(first + _SLICE, count)) for first in range(0, count, _SLICE)]
        tasks = [pool.submit(_load_slice, address, seed, first, last) for first, last in slices]
        for task in as_completed(tasks):
            yield task.result()


def _load_slice(address: str, seed: int, first: int, last: int) -> int:
    return asyncio.run(_add(address, seed, first, last))


async def _add(address: str, seed: int, first: int, last: int) -> int:
    numbers = iter(range(first, last))

    async def work() -> None:
        for number in numbers:
            await user_manager.add(population.user(number, seed))

    async with UserManager(address) as user_manager, asyncio.TaskGroup() as tasks:
        for _ in range(_AT_ONCE):
            tasks.create_task(work())
    return last - first
