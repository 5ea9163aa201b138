"""`python -m benchmarks.find`: measures FindUsers and the e-mail index.

Prints the users per second of FindUsers with 100 addresses, the memory of the index relative to the encoded users, and
the CPU time of single writes with and without the index, in the store and in the service. The rounds of the writes are
interleaved. See docs/performance.md.
"""

import argparse
import asyncio
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks import cpu, programs, stores
from benchmarks.population import user_id
from userservice import UserManager
from userservice_server.store.keys import Keys

_LAYOUT = Keys("userservice", 1).layout
_FIELDS = ("email_index", "email_unicode")
_BATCH = 100
_CALLERS = 4
_KINDS = ("add", "update", "delete")


def _email(number: int) -> str:
    return f"{user_id(number)}@mail.example"


async def _find(address: str, users: int, seconds: float, pids: tuple[int, int]) -> tuple[float, list[float]]:
    """Returns users per second of concurrent callers, and the CPU time of store and service per user (µs)."""
    found, end = 0, time.monotonic() + seconds

    async def call(manager: UserManager) -> None:
        nonlocal found
        while time.monotonic() < end:
            page = await manager.find([_email(number) for number in random.sample(range(users), _BATCH)])
            found += len(page)

    async with UserManager(address) as manager:
        await manager.find([_email(0)])
        started, before = time.monotonic(), [cpu.cpu_nanoseconds(pid) for pid in pids]
        await asyncio.gather(*(call(manager) for _ in range(_CALLERS)))
        after = [cpu.cpu_nanoseconds(pid) for pid in pids]
        taken = [(last - first) / 1000 / found for first, last in zip(before, after, strict=True)]
        return found / (time.monotonic() - started), taken


async def _write(address: str, number: int, count: int, pids: tuple[int, int]) -> dict[str, list[float]]:
    """Returns the CPU time of store and service for each kind of write, in microseconds per write."""
    names = [f"bench-{number}-{index}" for index in range(count)]
    taken: dict[str, list[float]] = {}
    async with UserManager(address) as manager:
        calls: dict[str, Callable[[str], Awaitable[Any]]] = {
            "add": lambda name: manager.add(user_id=name, email=f"{name}@mail.example"),
            "update": lambda name: manager.update(user_id=name, email=f"{name}@new.example"),
            "delete": manager.delete,
        }
        await manager.list(limit=1)
        for kind in _KINDS:
            before = [cpu.cpu_nanoseconds(pid) for pid in pids]
            waiting = iter(names)
            await asyncio.gather(*(_each(waiting, calls[kind]) for _ in range(_CALLERS)))
            after = [cpu.cpu_nanoseconds(pid) for pid in pids]
            taken[kind] = [(end - start) / 1000 / count for start, end in zip(before, after, strict=True)]
    return taken


async def _each(waiting: Any, call: Callable[[str], Awaitable[Any]]) -> None:
    for name in waiting:
        await call(name)


def _compare(store: stores.Store, address: str, pids: tuple[int, int], rounds: int, count: int) -> None:
    fields = dict(zip(_FIELDS, store.redis.hmget(_LAYOUT, *_FIELDS), strict=True))
    found: dict[tuple[str, bool], list[list[float]]] = {}
    for number in range(2 * rounds):
        has_index = bool((number + number // 2) % 2)  # without, with, with, without, …
        if has_index:
            store.redis.hset(_LAYOUT, mapping=fields)
        else:
            store.redis.hdel(_LAYOUT, *_FIELDS)
        for kind, taken in asyncio.run(_write(address, number, count, pids)).items():
            found.setdefault((kind, has_index), []).append(taken)
    sys.stdout.write("CPU per write   without index  with index  difference\n")
    for kind in _KINDS:
        for place, name in ((0, "store"), (1, "both")):
            without, with_index = (
                statistics.median(taken[0] if place == 0 else sum(taken) for taken in found[kind, has])
                for has in (False, True)
            )
            sys.stdout.write(
                f"{kind:7} {name:6} {without:9.1f} µs {with_index:9.1f} µs {with_index / without - 1:+10.1%}\n"
            )


def main() -> None:
    """Starts a store and a service, and measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.find", description=__doc__)
    parser.add_argument("--users", type=int, default=100_000, help="number of users in the store")
    parser.add_argument("--seconds", type=float, default=5, help="duration of the measurement of FindUsers")
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds of writes, each with and without")
    parser.add_argument("--writes", type=int, default=1000, help="writes of each kind in a round")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that servers are stopped, too
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as name, stores.running(Path(name)) as store:
        store.fill(arguments.users)
        payload, taken, index = store.encoded_bytes(), store.memory_taken(), store.memory_of_emails()
        sys.stdout.write(f"{arguments.users} users: encoded {payload} bytes, in memory {taken / payload:.2f} x, ")
        sys.stdout.write(
            f"of which the e-mail index {index / payload:.2f} x ({index / arguments.users:.0f} bytes per user)\n"
        )
        with programs.service("service", store.url, Path(name)) as service:
            address = f"127.0.0.1:{service.port}"
            pids = (store.pid, service.pid)
            rate, (of_store, of_service) = asyncio.run(_find(address, arguments.users, arguments.seconds, pids))
            sys.stdout.write(f"FindUsers of {_BATCH}: {rate:.0f} users/s with {_CALLERS} callers in one process, ")
            sys.stdout.write(f"CPU per user {of_store:.1f} µs in the store, {of_service:.1f} µs in the service\n")
            _compare(store, address, pids, arguments.rounds, arguments.writes)


if __name__ == "__main__":
    main()
