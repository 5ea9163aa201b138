"""`python -m benchmarks.imports --parts latency`: measures the p99 of GetUser beside other work.

The other work is a throttled import, or its stand-in: an unrelated process that uses the same CPU time and flushes a
file as often, but uses neither the service nor the store. The scheduler and the disk cause the p99 beside the stand-in,
so no lower p99 can be expected beside an import that uses this CPU time.

The p99 of ECHO, sent directly to the store, is measured too. It shows how long calls wait for the store alone: while
the store executes a script or flushes its writes.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from redis.asyncio import Redis

from benchmarks.cpu import cpu_seconds
from benchmarks.population import import_rows, named, user_id
from userservice import UserManager

_CALLS = 1500
_PAUSE = 0.004  # seconds between two calls
_SETTLE = 1.0  # seconds until the import has its rate
_SCRIPT_ROWS = 200  # rows that the service applies with one script; the store flushes once for each script
_SCRIPT_BYTES = 120_000  # bytes that the store appends to its file for one script


class Served(NamedTuple):
    """A service and its store: the address, the ids of both processes, and the URL and the folder of the store."""

    address: str
    store_url: str
    pids: tuple[int, int]
    folder: Path


class _Rounds:
    """The p99 of all rounds in milliseconds: of GetUser, and of ECHO in the store."""

    def __init__(self) -> None:
        self.alone: list[float] = []
        self.during: list[float] = []
        self.beside: list[float] = []
        self.echo_alone: list[float] = []
        self.echo_during: list[float] = []

    def print(self) -> None:
        """Prints the medians."""
        alone, during, beside = map(statistics.median, (self.alone, self.during, self.beside))
        of_import, of_stand_in = _ratio(self.during, self.alone), _ratio(self.beside, self.alone)
        sys.stdout.write(
            f"p99 of GetUser: {alone:.1f} ms alone, {during:.1f} ms during an import at half rate: x {of_import:.1f}; "
            f"{beside:.1f} ms beside an unrelated process with the same CPU time and flushes: x {of_stand_in:.1f}\n"
        )
        alone, during = map(statistics.median, (self.echo_alone, self.echo_during))
        sys.stdout.write(
            f"p99 of ECHO, sent directly to the store: {alone:.1f} ms alone, {during:.1f} ms during the import: "
            f"x {_ratio(self.echo_during, self.echo_alone):.1f}\n"
        )


def _ratio(values: Sequence[float], base: Sequence[float]) -> float:
    return statistics.median(value / alone for value, alone in zip(values, base, strict=True))


async def measure(served: Served, rate: float, rounds: int) -> None:
    """Prints the p99 of GetUser alone, during an import of ``rate`` rows per second, and beside its stand-in."""
    found = _Rounds()
    async with UserManager(served.address) as manager, Redis.from_url(served.store_url) as store:
        for number in range(rounds):
            before = _cpu(served.pids)
            found.alone.append(await _get_p99(manager))
            of_gets = _cpu(served.pids) - before
            found.echo_alone.append(await _echo_p99(store))
            async with _beside("throttle", served.address, str(rate), f"t{number}") as importer:
                pids = (*served.pids, importer)
                before, started = _cpu(pids), time.perf_counter()
                found.during.append(await _get_p99(manager))
                per_row = (_cpu(pids) - before - of_gets) / (time.perf_counter() - started) / rate
                found.echo_during.append(await _echo_p99(store))
            with tempfile.NamedTemporaryFile(dir=served.folder) as file:
                async with _beside("stand-in", file.name, str(rate), str(per_row)):
                    found.beside.append(await _get_p99(manager))
            sys.stderr.write(f"CPU time of a row, in all processes of the import: {per_row * 1e6:.0f} µs\n")
    found.print()


def _cpu(pids: Sequence[int]) -> float:
    return sum(map(cpu_seconds, pids))


async def _get_p99(manager: UserManager) -> float:
    return await _p99(lambda number: manager.get(user_id(number % 1000)))


async def _echo_p99(store: Redis) -> float:
    return await _p99(lambda _: store.echo("text"))


async def _p99(call: Callable[[int], Awaitable[object]]) -> float:
    """Returns the p99 in milliseconds of one caller with pauses; ``call`` gets the number of the call."""
    took = []
    for number in range(_CALLS):
        started = time.perf_counter()
        await call(number)
        took.append(time.perf_counter() - started)
        await asyncio.sleep(_PAUSE)
    return statistics.quantiles(took, n=100)[98] * 1000


@asynccontextmanager
async def _beside(*arguments: str) -> AsyncIterator[int]:
    """Runs this module in another process for the duration of the block; yields the id of the process."""
    command = [sys.executable, "-m", "benchmarks.import_latency", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    try:
        await asyncio.sleep(_SETTLE)
        yield process.pid
    finally:
        await process.communicate(b"stop")


async def _rows(prefix: str, rate: float, stop: asyncio.Event) -> AsyncIterator[dict[str, Any]]:
    prototypes = import_rows(prefix, 1000)
    started, sent = time.perf_counter(), 0
    while not stop.is_set():
        for row in prototypes[sent % 1000 : sent % 1000 + 100]:
            yield named(row, f"{prefix}-{sent}")
            sent += 1
        await asyncio.sleep(max(0.0, started + sent / rate - time.perf_counter()))


async def _throttle(address: str, rate: str, prefix: str) -> None:
    """Imports at this rate until standard input ends."""
    stop = asyncio.Event()
    async with UserManager(address) as manager:
        running = asyncio.create_task(manager.import_users(_rows(prefix, float(rate), stop)))
        await asyncio.to_thread(sys.stdin.read)
        stop.set()
        status = await running
    sys.stderr.write(f"throttled import: {status.added} rows\n")


async def _stand_in(path: str, rate: str, cpu_seconds_per_row: str) -> None:
    """Uses the CPU time of an import at this rate, and appends to a file and flushes it, until standard input ends."""
    reading = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    scripts, started, used = 0, time.perf_counter(), time.process_time()
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    while not reading.done():
        used += float(cpu_seconds_per_row) * _SCRIPT_ROWS
        while time.process_time() < used:
            pass
        os.write(file, bytes(_SCRIPT_BYTES))
        os.fdatasync(file)
        scripts += 1
        await asyncio.sleep(max(0.0, started + scripts * _SCRIPT_ROWS / float(rate) - time.perf_counter()))
    os.close(file)


def main() -> None:
    """Runs the throttled import or its stand-in."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_latency", description=__doc__)
    parser.add_argument("work", choices=("throttle", "stand-in"))
    parser.add_argument("arguments", nargs=3)
    given = parser.parse_args()
    asyncio.run((_throttle if given.work == "throttle" else _stand_in)(*given.arguments))


if __name__ == "__main__":
    main()
