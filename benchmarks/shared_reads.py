"""`python -m benchmarks.shared_reads`: measures gets with and without `share_reads`.

Prints the rate, and the CPU time per get in the client process and in the service with its store. The rounds are
interleaved, and each figure is measured in a separate client process. See docs/performance.md.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import redis

from benchmarks import programs, stores
from benchmarks.population import user_id
from userservice import SyncUserManager, UserManager

_USERS = 20_000
_TYPESCRIPT = Path(__file__).parent.parent / "client" / "typescript"
_CALLERS = {"asyncio": (1, 16, 64, 256), "threads": (1, 64), "typescript": (1, 16, 64, 256)}
_MODES = ("alone", "shared")
_TICK = os.sysconf("SC_CLK_TCK")


def _gets(callers: int) -> int:
    """Returns the number of gets of one measurement."""
    return 1000 if callers == 1 else 5120


async def _with_tasks(address: str, callers: int, share_reads: bool) -> tuple[float, float]:  # noqa: FBT001
    async with UserManager(address, share_reads=share_reads) as manager:
        each = _gets(callers) // callers

        async def call(first: int, count: int) -> None:
            for number in range(first, first + count):
                await manager.get(user_id(number))

        await asyncio.gather(*(call(index, 20) for index in range(callers)))
        cpu, started = time.process_time(), time.perf_counter()
        await asyncio.gather(*(call(index * each, each) for index in range(callers)))
        return each * callers / (time.perf_counter() - started), (time.process_time() - cpu) / each / callers * 1e6


def _with_threads(address: str, callers: int, share_reads: bool) -> tuple[float, float]:  # noqa: FBT001
    with SyncUserManager(address, share_reads=share_reads) as manager:
        each = _gets(callers) // callers

        def call(first: int, count: int) -> None:
            for number in range(first, first + count):
                manager.get(user_id(number))

        def run(count: int) -> None:
            threads = [threading.Thread(target=call, args=(index * count, count)) for index in range(callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        run(20)
        cpu, started = time.process_time(), time.perf_counter()
        run(each)
        return each * callers / (time.perf_counter() - started), (time.process_time() - cpu) / each / callers * 1e6


def _measure(client: str, callers: int, mode: str, address: str) -> None:
    """Prints the rate and the microseconds of client CPU per get, in this process."""
    shared = mode == "shared"
    if client == "asyncio":
        figures = asyncio.run(_with_tasks(address, callers, shared))
    else:
        figures = _with_threads(address, callers, shared)
    sys.stdout.write(json.dumps(figures))


def _cpu(pids: list[int]) -> float:
    """Returns the seconds of CPU that these processes have used."""
    seconds = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / _TICK
    return seconds


def _pid_of_store(url: str) -> int:
    with redis.Redis.from_url(url) as connection:
        return int(connection.info("server")["process_id"])


def _figures(client: str, callers: int, mode: str, address: str, pids: list[int]) -> list[float]:
    """Returns the rate, and the microseconds of CPU per get in the client and in the service."""
    folder = None
    if client == "typescript":
        command = ["node", "bench/shared_reads.js", address, str(callers), mode, str(_gets(callers))]
        folder = _TYPESCRIPT
    else:
        command = [sys.executable, "-m", "benchmarks.shared_reads", "--measure", client, str(callers), mode, address]
    before = _cpu(pids)
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, timeout=120)
    rate, cost = json.loads(done.stdout)
    return [rate, cost, (_cpu(pids) - before) / (_gets(callers) + 20 * callers) * 1e6]


def _compare(arguments: argparse.Namespace, address: str, pids: list[int]) -> None:
    found: dict[tuple[str, int, str], list[list[float]]] = {}
    kinds = [(client, callers) for client in arguments.clients for callers in _CALLERS[client]]
    for _ in range(arguments.rounds):
        for client, callers in kinds:
            for mode in random.sample(_MODES, len(_MODES)):
                figures = _figures(client, callers, mode, address, pids)
                found.setdefault((client, callers, mode), []).append(figures)
                sys.stderr.write(json.dumps([client, callers, mode, *figures]) + "\n")
    sys.stdout.write("client     callers  mode       gets/s  client µs  service µs\n")
    for (client, callers, mode), rows in sorted(found.items()):
        rate, cost, service = (statistics.median(column) for column in zip(*rows, strict=True))
        sys.stdout.write(f"{client:10} {callers:7}  {mode:6} {rate:10.0f} {cost:10.1f} {service:11.1f}\n")


def main() -> None:
    """Starts a store and a service, and compares."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_reads", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds; the medians are printed")
    parser.add_argument("--clients", nargs="+", choices=_CALLERS, default=list(_CALLERS), help="default: all")
    parser.add_argument("--measure", nargs=4, metavar=("CLIENT", "CALLERS", "MODE", "ADDRESS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        client, callers, mode, address = arguments.measure
        _measure(client, int(callers), mode, address)
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that servers are stopped, too
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as name, stores.running(Path(name)) as store:
        store.fill(_USERS)
        with programs.service("service", store.url, Path(name)) as service:
            _compare(arguments, f"127.0.0.1:{service.port}", [service.pid, _pid_of_store(store.url)])


if __name__ == "__main__":
    main()
