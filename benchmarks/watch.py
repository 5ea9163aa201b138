"""`python -m benchmarks.watch`: measures the feed of changes and WatchUsers.

Prints, for 1 and 100 watches during writes at a constant rate, by AddUser and by ImportUsers, how many changes were
lost; the delay at 1000 writes/s; the bytes of an entry in the store; the CPU time that service and store take for a
write while the feed is on, relative to a feed that is off, in interleaved rounds; and the memory of a watch that is not
read. The store has the options of the embedded store (fsync always).
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc.aio

from benchmarks import programs, stores
from benchmarks.cpu import cpu_nanoseconds
from benchmarks.errors import BenchError
from benchmarks.programs import Program
from benchmarks.stores import Store
from benchmarks.writer import user_id
from userservice import UserManager
from userservice.v1.user_service_pb2_grpc import UserServiceStub
from userservice.v1.user_watch_pb2 import WatchUsersRequest
from userservice_server.config import Store as StoreSettings
from userservice_server.process.store_opening import open_store
from userservice_server.store.feed import FeedSettings, RedisFeed
from userservice_server.store.keys import Keys

_WRITERS = {"AddUser": "benchmarks.writer", "ImportUsers": "benchmarks.importer"}
_FEED = Keys("userservice", 1).all_users()[0].feed
_CALLERS = 64
_STALLED = 20  # watches
_LARGE = 60_000  # bytes of a user
_LARGE_USERS = 200
_HELD_BACK = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
_SETTLE_SECONDS = 2.0


async def _with_feed(url: str, act: Callable[[RedisFeed], Awaitable[object]]) -> None:
    store = await open_store(StoreSettings(redis_url=url), lambda: False, lambda: None, 5, None)
    try:
        await act(RedisFeed(store))
    finally:
        await store.close()


async def _turn(url: str, *, is_on: bool) -> None:
    """Turns the feed on or off, without the pause for servers of an earlier version."""
    await _with_feed(url, (lambda feed: feed.turn_on(FeedSettings(), pause=0)) if is_on else RedisFeed.turn_off)


class _Written(NamedTuple):
    """When users were added: by user_id, the time of the call and the time of its reply."""

    called: dict[str, float]
    replied: dict[str, float]

    @property
    def rate(self) -> float:
        """Writes per second."""
        return len(self.replied) / (max(self.replied.values()) - min(self.called.values()))


async def _write(program: str, port: int, prefix: str, rate: float, seconds: float) -> _Written:
    """Adds users at a constant rate, or at a lower rate if the service is slower, with one of ``_WRITERS``."""
    command = (sys.executable, "-m", program, str(port), str(rate), str(seconds), prefix)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise BenchError("the writes failed")
    times = json.loads(output)
    called, replied = (
        {user_id(prefix, number): when for number, when in enumerate(times[name])} for name in ("called", "replied")
    )
    return _Written(called, replied)


async def _followed(
    port: int, writer: str, watches: int, view: str, rate: float, seconds: float
) -> tuple[_Written, Any]:
    """Writes while another process watches; returns what was written, and what ``benchmarks.watchers`` prints."""
    prefix = f"{writer}-{view}-{watches}-{rate:.0f}".lower()
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "benchmarks.watchers", str(port), str(watches), view)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 30)
    try:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both are pipes")
        if await process.stdout.readline() != b"ready\n":
            raise BenchError("the watches did not start")
        written = await _write(_WRITERS[writer], port, prefix, rate, seconds)
        process.stdin.write(b"%d\n" % len(written.replied))
        await process.stdin.drain()
        return written, json.loads(await process.stdout.readline() or "{}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _percentiles(seconds: Sequence[float]) -> str:
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms"


async def _losses(service: Program, writer: str, watches: Sequence[int], rate: float, seconds: float) -> int:
    """Prints how many changes were lost; returns their number."""
    total = 0
    for count in watches:
        before = service.cpu_seconds()
        written, found = await _followed(service.port, writer, count, "VIEW_ID", rate, seconds)
        taken = (service.cpu_seconds() - before) * 1e6
        total += found["lost"]
        sys.stdout.write(
            f"{written.rate:,.0f} writes/s by {writer} for {seconds:.0f} s, watches: {count}: "
            f"{found['lost']} of {count * len(written.replied):,} changes lost; {_delays(written, found['arrived'])}; "
            f"CPU of the service: {taken / len(written.replied):.0f} us per write, "
            f"{taken / found['messages']:.0f} us per message\n"
        )
    return total


async def _delay(service: Program, rate: float, seconds: float) -> None:
    written, found = await _followed(service.port, "AddUser", 1, "VIEW_FULL", rate, seconds)
    sys.stdout.write(f"delay at {written.rate:,.0f} writes/s: {_delays(written, found['arrived'])}\n")


def _delays(written: _Written, arrived: dict[str, float]) -> str:
    """Returns how long changes took until they arrived at the first watch."""
    after_reply = [max(0.0, when - written.replied[name]) for name, when in arrived.items() if name in written.replied]
    after_call = [when - written.called[name] for name, when in arrived.items() if name in written.called]
    return f"{_percentiles(after_reply)} after the reply; {_percentiles(after_call)} after the call"


def _entry_bytes(store: Store) -> float:
    return float(store.redis.memory_usage(_FEED, samples=0) / store.redis.xlen(_FEED))


async def _cost(store: Store, service: Program, address: str, rounds: int, writes: int) -> None:
    """Prints the CPU time of updates, with the feed on and off."""
    found: dict[str, list[float]] = {"off": [], "on": [], "control": []}
    order = list(found)
    async with UserManager(address) as manager:
        for number in range(_CALLERS):
            await manager.add(user_id=f"cost-{number}")
        for number in range(rounds + 1):
            order.append(order.pop(0))
            for kind in order:
                await _turn(store.url, is_on=kind == "on")
                taken = await _cpu_of_updates(manager, (service.pid, store.pid), writes)
                if number:  # the first round warms up
                    found[kind].append(taken)
    await _turn(store.url, is_on=True)
    off = statistics.median(found["off"])
    for kind in ("on", "control"):
        ratios = sorted(found[kind][number] / found["off"][number] for number in range(rounds))
        name = "with the feed on" if kind == "on" else "off again (control)"
        sys.stdout.write(f"CPU of a write: {off * 1e6:.0f} us with the feed off; {name}: x ")
        sys.stdout.write(f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})\n")


async def _cpu_of_updates(manager: UserManager, pids: Sequence[int], writes: int) -> float:
    """Returns the CPU seconds of these processes for one update."""

    async def caller(number: int) -> None:
        for each in range(number, writes, _CALLERS):
            await manager.update(user_id=f"cost-{number}", email=f"{each}@example.com")

    before = sum(map(cpu_nanoseconds, pids))
    await asyncio.gather(*map(caller, range(_CALLERS)))
    return (sum(map(cpu_nanoseconds, pids)) - before) / 1e9 / writes


async def _read_all(stub: Any, token: str) -> None:
    """Reads all changes of large users."""
    call, found = stub.WatchUsers(WatchUsersRequest(resume_token=token)), 0
    async for message in call:
        found += len(message.changes)
        if found >= _LARGE_USERS:
            break
    call.cancel()


async def _memory(service: Program, address: str) -> None:
    """Prints the memory of watches that read older changes of large users, and whose client does not read."""
    async with grpc.aio.insecure_channel(address, _HELD_BACK) as channel, UserManager(address) as manager:
        stub = UserServiceStub(channel)
        watch = stub.WatchUsers(WatchUsersRequest(now=True))
        token = (await anext(aiter(watch))).resume_token
        watch.cancel()
        for number in range(_LARGE_USERS):
            await manager.add(user_id=f"large-{number}", metadata={"text": "x" * _LARGE})
        await _read_all(stub, token)  # the first watch takes memory for all watches
        before = service.memory()
        stalled = [stub.WatchUsers(WatchUsersRequest(resume_token=token)) for _ in range(_STALLED)]
        await asyncio.gather(*(call.initial_metadata() for call in stalled))
        await asyncio.sleep(_SETTLE_SECONDS)
        taken = (service.memory() - before) / _STALLED / (1 << 20)
        sys.stdout.write(f"memory of a watch that is not read: {taken:.2f} MiB ({_STALLED} watches, 60 kB users)\n")
        for call in stalled:
            call.cancel()


async def _measure(store: Store, service: Program, arguments: argparse.Namespace) -> int:
    address = f"127.0.0.1:{service.port}"
    await _turn(store.url, is_on=True)
    lost = 0
    for rate in arguments.rate:
        for writer in _WRITERS:
            lost += await _losses(service, writer, arguments.watches, rate, arguments.seconds)
    await _delay(service, arguments.delay_rate, arguments.seconds)
    sys.stdout.write(f"bytes of an entry: {_entry_bytes(store):.1f}\n")
    if arguments.workers == 1:  # the CPU time of one process can be read more precisely
        await _cost(store, service, address, arguments.rounds, arguments.writes)
    await _memory(service, address)
    return lost


def main() -> int:
    """Starts a store and a service, and measures; returns the exit code: 0, or 1 if changes were lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watch", description=__doc__)
    parser.add_argument("--watches", type=int, nargs="+", default=[1, 100], help="numbers of watches, in turn")
    parser.add_argument("--rate", type=float, nargs="+", default=[2500], help="writes per second, in turn")
    parser.add_argument("--delay-rate", type=float, default=1000, help="writes per second while the delay is measured")
    parser.add_argument("--workers", type=int, default=1, help="processes of the service")
    parser.add_argument("--seconds", type=float, default=10, help="duration of the writes of each measurement")
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds of the CPU time")
    parser.add_argument("--writes", type=int, default=2000, help="writes of each round")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that servers are stopped, too
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as name, stores.running(Path(name)) as store:
        store.fill(1000)
        workers = ("--workers", str(arguments.workers))
        with programs.service("service", store.url, Path(name), *workers) as service:
            return 1 if asyncio.run(_measure(store, service, arguments)) else 0


if __name__ == "__main__":
    sys.exit(main())
