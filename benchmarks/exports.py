"""`python -m benchmarks.exports`: measures `userservice users export` and `users import`.

Prints, for each format: the medians of users/s and of users per second of CPU time of the command (including its
start), and the largest peak memory. The order of the formats changes in each round. Then imports the files into empty
stores with --restore, and exports these stores again: the result must be the same as the file, byte for byte (a Parquet
file: row for row). Each user has other metadata, because the client keeps the texts of frequent short values.
"""

import argparse
import asyncio
import filecmp
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict

from benchmarks import programs, stores
from benchmarks.errors import BenchError
from benchmarks.population import users
from userservice import UserManager

_FORMATS = ("jsonl", "csv", "parquet")
_MIB = 1 << 20


class _Cost(NamedTuple):
    """Time, CPU time and memory of a command.

    Attributes:
        seconds: the time from its start to its end.
        cpu_seconds: the CPU time, of user and system.
        peak: the maximum memory in use, in bytes.
    """

    seconds: float
    cpu_seconds: float
    peak: int


def _rows(count: int) -> Iterator[dict[str, Any]]:
    random = Random(20250101)
    prototypes = [(user, MessageToDict(user.metadata)) for user in users(1000)]
    for number in range(count):
        user, metadata = prototypes[number % 1000]
        address = {**metadata["address"], "zip": f"{random.randrange(100_000):05d}"}
        yield {
            "user_id": f"user-{number:08d}",
            "email": f"user-{number:08d}@mail.example",
            "first_name": user.first_name,
            "last_name": user.last_name,
            "metadata": {**metadata, "logins": random.randrange(100_000), "address": address},
        }


async def _fill(address: str, count: int) -> None:
    async with UserManager(address) as manager:
        status = await manager.import_users(_rows(count))
    if status.added != count:
        raise BenchError("the store was not filled")


def _run(address: str, *arguments: str | Path) -> _Cost:
    """Runs `userservice users`."""
    command = [sys.executable, "-m", "userservice", "users", *map(str, arguments), "--address", address]
    started = time.perf_counter()
    with Path(os.devnull).open("wb") as null:
        to_null = (os.POSIX_SPAWN_DUP2, null.fileno(), 1)
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=[to_null])
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise BenchError(f"users {arguments[0]} failed")
    return _Cost(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _show(what: str, count: int, costs: Sequence[_Cost], size: int) -> None:
    rate = statistics.median(count / cost.seconds for cost in costs)
    per_core = sorted(count / cost.cpu_seconds for cost in costs)
    sys.stdout.write(
        f"{what:15} {rate:9,.0f} users/s, {statistics.median(per_core):9,.0f} users per CPU second "
        f"({per_core[0]:,.0f} to {per_core[-1]:,.0f}), peak {max(cost.peak for cost in costs) / _MIB:.0f} MiB, "
        f"{size / count:.0f} bytes/user\n"
    )
    sys.stdout.flush()


@contextmanager
def _service(folder: Path) -> Iterator[str]:
    """Runs a service with an empty store; yields its address."""
    folder.mkdir()
    with stores.running(folder) as store, programs.service("service", store.url, folder) as service:
        yield f"127.0.0.1:{service.port}"


def _exports(address: str, folder: Path, formats: Sequence[str], count: int, rounds: int) -> dict[str, Path]:
    order, costs = list(formats), {kind: list[_Cost]() for kind in formats}
    files = {kind: folder / f"users.{kind}" for kind in formats}
    for _ in range(rounds):
        order.append(order.pop(0))
        for kind in order:
            costs[kind].append(_run(address, "export", files[kind], "--overwrite"))
    for kind in formats:
        _show(f"export, {kind}", count, costs[kind], files[kind].stat().st_size)
    return files


def _is_same(kind: str, one: Path, other: Path) -> bool:
    if kind != "parquet":
        return filecmp.cmp(one, other, shallow=False)
    # In another process: the peak memory of a command includes that of the process that starts it.
    code = "import sys, pyarrow.parquet as p; sys.exit(not p.read_table(sys.argv[1]).equals(p.read_table(sys.argv[2])))"
    return subprocess.run([sys.executable, "-c", code, one, other], check=False).returncode == 0


def _import_back(kind: str, file: Path, folder: Path, count: int) -> None:
    """Imports a file into an empty store, and compares an export of the store with the file."""
    with _service(folder) as address:
        cost = _run(address, "import", file, "--restore", "--json")
        again = folder / file.name
        _run(address, "export", again)
        _show(f"import, {kind}", count, [cost], file.stat().st_size)
        if not _is_same(kind, file, again):
            raise BenchError(f"{kind}: the export of the imported users differs from the file")


def main() -> None:
    """Starts a store and a service, and measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000, help="number of users")
    parser.add_argument("--rounds", type=int, default=3, help="exports to each format")
    parser.add_argument("--formats", nargs="+", choices=_FORMATS, default=_FORMATS)
    parser.add_argument("--no-import", action="store_true", help="do not import the files")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that servers are stopped, too
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as name:
        folder, count = Path(name), arguments.users
        with _service(folder / "source") as address:
            asyncio.run(_fill(address, count))
            files = _exports(address, folder, arguments.formats, count, arguments.rounds)
        for kind, file in () if arguments.no_import else files.items():
            _import_back(kind, file, folder / kind, count)


if __name__ == "__main__":
    main()
