"""`python -m benchmarks.blocking`: compares the blocking managers with asyncio managers on an event loop in a thread.

Measures the CPU time of the client process and the rate in interleaved rounds. Each figure is measured in a separate
process. See docs/adr/0005-blocking-clients.md.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from benchmarks import programs, stores
from benchmarks.population import user_id
from userservice import SyncUserManager, User, UserManager

T = TypeVar("T")

KINDS = ("import", "get 1", "get 8", "chunks 100", "chunks 1000")
CLIENTS = ("blocking", "loop")
CALLS = 2400
WARM_UP = 100
_USERS = 20_000


class Client(Protocol):
    """The methods of a blocking client that are measured."""

    def get(self, user_id: str) -> User:
        """Returns a user."""

    def list_chunked(self, chunk_size: int) -> Iterator[list[User]]:
        """Reads all users."""


class LoopManager:
    """Makes the asyncio manager blocking, with an event loop in a thread."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._manager = UserManager(address)

    def __enter__(self) -> Self:
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends the thread."""
        self._run(self._manager.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def get(self, user_id: str) -> User:
        """Returns a user."""
        return self._run(self._manager.get(user_id))

    def list_chunked(self, chunk_size: int) -> Iterator[list[User]]:
        """Reads all users."""
        chunks = self._manager.list_chunked(chunk_size)

        async def following() -> list[User] | None:
            return await anext(chunks, None)

        while (chunk := self._run(following())) is not None:
            yield chunk


def _gets(client: Client, threads: int) -> int:
    each = CALLS // threads

    def call(first: int) -> None:
        for number in range(first, first + each):
            client.get(user_id(number))

    callers = [threading.Thread(target=call, args=[index * each]) for index in range(threads)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return each * threads


def _chunks(client: Client, chunk_size: int) -> int:
    return sum(len(users) for _ in range(2) for users in client.list_chunked(chunk_size))


def measure(name: str, kind: str, address: str) -> None:
    """Prints the rate and the microseconds of CPU per operation, in this process."""
    what, _, number = kind.partition(" ")
    work: Callable[[Client, int], int] = _gets if what == "get" else _chunks
    with SyncUserManager(address) if name == "blocking" else LoopManager(address) as client:
        for index in range(WARM_UP):
            client.get(user_id(index))
        cpu, started = time.process_time(), time.perf_counter()
        count = work(client, int(number))
        rate, cost = count / (time.perf_counter() - started), (time.process_time() - cpu) / count * 1e6
    sys.stdout.write(json.dumps([rate, cost]))


def _figures(name: str, kind: str, address: str) -> list[float]:
    if kind == "import":
        public = "SyncUserManager" if name == "blocking" else "UserManager"
        code = (
            "import time; started = time.process_time()\n"
            f"from userservice import {public}\n"
            "print([0, (time.process_time() - started) * 1e6])"
        )
        command = [sys.executable, "-c", code]
    else:
        command = [sys.executable, "-m", "benchmarks.blocking", "--measure", name, kind, address]
    figures: list[float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120).stdout)
    return figures


def _compare(rounds: int, address: str) -> None:
    found: dict[tuple[str, str], list[list[float]]] = {}
    for _ in range(rounds):
        for kind in KINDS:
            for name in random.sample(CLIENTS, len(CLIENTS)):
                found.setdefault((kind, name), []).append(_figures(name, kind, address))
    for kind in KINDS:
        for name in CLIENTS:
            rate, cost = (statistics.median(column) for column in zip(*found[kind, name], strict=True))
            sys.stdout.write(f"{kind:12} {name:9} {rate:10.0f}/s {cost:12.1f} µs of CPU\n")


def main() -> None:
    """Starts a store and a service, and compares."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blocking", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds; the medians are printed")
    parser.add_argument("--measure", nargs=3, metavar=("CLIENT", "KIND", "ADDRESS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the servers are stopped
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as name, stores.running(Path(name)) as store:
        store.fill(_USERS)
        with programs.service("service", store.url, Path(name)) as service:
            _compare(arguments.rounds, f"127.0.0.1:{service.port}")


if __name__ == "__main__":
    main()
