"""`python -m benchmarks.filters`: measures filters and CountUsers.

Prints the users per second that a stream with a filter examines, the p99 of GetUser without and with such a stream, and
the duration of CountUsers without a filter. The filters match about 1 of 1000 users. See docs/performance.md.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import cpu, programs, stores
from benchmarks.latencies import lasting, p99_of_gets
from benchmarks.population import users
from userservice import UserManager

_ZIP = users(1)[0].metadata.fields["address"].struct_value.fields["zip"].string_value
_FILTERS = (
    'email : "000@"',
    'metadata.logins = 777 AND metadata.plan = "pro"',
    f'metadata.address.zip = "{_ZIP}"',
)
_COUNTS = 1000


async def _scan(manager: UserManager, text: str) -> int:
    """Reads the stream of all users that match a filter; returns their number."""
    return sum([len(chunk) async for chunk in manager.list_chunked(1000, filter=text, view="ID", timeout=60)])


async def _rates(address: str, text: str, count: int, pids: tuple[int, int]) -> str:
    async with UserManager(address) as manager:
        await manager.list(limit=1)
        started, before = time.monotonic(), [cpu.cpu_nanoseconds(pid) for pid in pids]
        matching = await _scan(manager, text)
        seconds = time.monotonic() - started
        of_store, of_service = (
            (cpu.cpu_nanoseconds(pid) - first) / 1e9 for pid, first in zip(pids, before, strict=True)
        )
    rates = f"{count / seconds:.0f} users/s, {count / of_service:.0f} per second of CPU of the service, "
    return f"{rates}{count / (of_service + of_store):.0f} of service and store ({matching} match)"


async def _while_scanning(address: str, count: int, seconds: float) -> float:
    """Returns the p99 of GetUser while a stream with a filter is read again and again."""

    async def scan() -> None:
        async with UserManager(address) as manager:
            while True:
                await _scan(manager, _FILTERS[0])

    scanning = asyncio.create_task(scan())
    try:
        return await p99_of_gets(address, count, lasting(seconds))
    finally:
        scanning.cancel()
        await asyncio.gather(scanning, return_exceptions=True)


async def _count(address: str) -> list[float]:
    """Returns the durations of CountUsers without a filter, in milliseconds."""
    taken = []
    async with UserManager(address) as manager:
        await manager.count()
        for _ in range(_COUNTS):
            started = time.perf_counter()
            await manager.count()
            taken.append((time.perf_counter() - started) * 1000)
    return taken


def main() -> None:
    """Starts a store and a service, and measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000, help="number of users in the store")
    parser.add_argument("--seconds", type=float, default=20, help="duration of each measurement of GetUser")
    parser.add_argument("--rounds", type=int, default=5, help="streams for each filter")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that servers are stopped, too
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as name, stores.running(Path(name)) as store:
        store.fill(arguments.users)
        with programs.service("service", store.url, Path(name)) as service:
            address, pids = f"127.0.0.1:{service.port}", (store.pid, service.pid)
            for text in _FILTERS:
                for _ in range(arguments.rounds):
                    sys.stdout.write(f"{text}: {asyncio.run(_rates(address, text, arguments.users, pids))}\n")
            calm = asyncio.run(p99_of_gets(address, arguments.users, lasting(arguments.seconds)))
            busy = asyncio.run(_while_scanning(address, arguments.users, arguments.seconds))
            sys.stdout.write(f"GetUser p99: {calm:.1f} ms, with a stream {busy:.1f} ms ({busy / calm:.2f} x)\n")
            taken = asyncio.run(_count(address))
            sys.stdout.write(f"CountUsers without filter: median {statistics.median(taken):.2f} ms, ")
            sys.stdout.write(f"p99 {statistics.quantiles(taken, n=100)[98]:.2f} ms\n")


if __name__ == "__main__":
    main()
