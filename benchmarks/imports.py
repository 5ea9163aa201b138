"""`python -m benchmarks.imports`: measures ImportUsers.

The parts, which can also be measured one by one (--parts):

- rates: users/s of an import, of AddUser with 64 callers (both through the asyncio client), and of the import script,
  which the benchmark calls directly in the store, in interleaved rounds;
- latency: the p99 of GetUser alone and beside an import at half of its full rate (benchmarks/import_latency.py);
- memory: the memory of client and service during a long import;
- turns: the longest turns of the event loop during imports of several kinds (benchmarks/held_loop.py).

The store has the options of the embedded store (fsync always).
"""

import argparse
import asyncio
import json
import os
import secrets
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from hiredis import pack_command

from benchmarks import import_latency, programs, stores
from benchmarks.errors import BenchError
from benchmarks.import_latency import Served
from benchmarks.population import import_rows, named, users
from benchmarks.programs import Program
from benchmarks.stores import Store
from userservice import SyncUserManager, UserManager
from userservice.imports import OnDuplicate
from userservice.v1.user_pb2 import User
from userservice_server.store import scripts
from userservice_server.store.keys import Keys
from userservice_server.wire.emails import key_of_new
from userservice_server.wire.records import key_field

_CALLERS = 64
_ROWS_PER_SCRIPT = 200
_SCRIPTS_AHEAD = 4
_LARGE = 60_000  # bytes
_PARTS = ("rates", "latency", "memory", "turns")
_TABLE = Keys("userservice", 1).all_users()[0]


async def _import(manager: UserManager, rows: list[dict[str, Any]]) -> float:
    started = time.perf_counter()
    status = await manager.import_users(rows)
    if status.added != len(rows):
        raise BenchError("an import did not add all rows")
    return len(rows) / (time.perf_counter() - started)


async def _add(manager: UserManager, rows: list[dict[str, Any]]) -> float:
    waiting = iter(rows)

    async def caller() -> None:
        for row in waiting:
            await manager.add(row)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    return len(rows) / (time.perf_counter() - started)


def script_rate(store: Store, prefix: str, count: int) -> float:
    """Calls the import script over one connection, with a few calls in flight; makes the commands in advance."""
    store_id, import_id = store.redis.get(_TABLE.store_id), str(uuid4()).encode()
    keys = (_TABLE.store_id, _TABLE.layout, _TABLE.rows, _TABLE.index)
    own = (_TABLE.import_prefix + import_id, _TABLE.import_errors_prefix + import_id)
    every_key = (*keys, _TABLE.last_id, *own, *_TABLE.email_index, _TABLE.feed)
    store.redis.execute_command("EVAL", scripts.IMPORT_OPEN.text, 5, *keys, own[0], store_id, "0" * 32, 0)
    places = struct.pack(f"<{_ROWS_PER_SCRIPT}H", *range(_ROWS_PER_SCRIPT))
    commands = []
    for start in range(0, count, _ROWS_PER_SCRIPT):
        arguments = [store_id, 0, start, start + _ROWS_PER_SCRIPT, "FAIL", 1, 0, b"", b"", 0, 0, 0, places, 0]
        for number, user in enumerate(users(_ROWS_PER_SCRIPT, start), start):
            user_id = f"{prefix}-{number:08d}"
            user.email = f"{user_id}@mail.example"
            content = _content(user)
            arguments += (user_id, b"", content, key_of_new(content) or "")
        commands.append(pack_command(("EVALSHA", scripts.IMPORT.sha1, len(every_key), *every_key, *arguments)))
    connection = store.redis.connection_pool.get_connection()
    started = time.perf_counter()
    try:
        for place, command in enumerate(commands):
            connection.send_packed_command([command])
            if place >= _SCRIPTS_AHEAD:
                connection.read_response(disable_decoding=True)
        for _ in commands[-_SCRIPTS_AHEAD:]:
            kind, *_rest = connection.read_response(disable_decoding=True)
    finally:
        store.redis.connection_pool.release(connection)
    if kind != b"applied":
        raise BenchError("a script was not applied")
    return count / (time.perf_counter() - started)


def _content(user: Any) -> bytes:
    made = User(
        user_id=user.user_id,
        uuid=str(uuid4()),
        email=user.email,
        first_name=user.first_name,
        last_name=user.last_name,
        metadata=user.metadata,
        etag=secrets.token_urlsafe(9),
    )
    made.created_at.GetCurrentTime()
    made.updated_at.CopyFrom(made.created_at)
    return made.SerializeToString()[len(key_field(user.user_id)) :]


async def _rounds(address: str, store: Store, rounds: int, size: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"import": [], "add": [], "script": []}
    for number in range(rounds):
        async with UserManager(address) as manager:
            found["import"].append(await _import(manager, import_rows(f"i{number}", size)))
            found["add"].append(await _add(manager, import_rows(f"a{number}", size // 10)))
        found["script"].append(script_rate(store, f"s{number}", size // _ROWS_PER_SCRIPT * _ROWS_PER_SCRIPT))
        sys.stderr.write(f"{ {name: round(rates[-1]) for name, rates in found.items()} }\n")
    return found


def _resident(pid: int | str) -> float:
    """Returns the resident memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


async def _memory(address: str, pid: int, count: int) -> None:
    """Imports many rows, and prints the memory of service and client meanwhile."""
    shown: list[str] = []

    def show(status: Any) -> None:
        if status.offset // (count // 5) > len(shown):
            shown.append(f"{status.offset:,}: service {_resident(pid):.0f}, client {_resident('self'):.0f} MiB")

    def source() -> Iterator[dict[str, Any]]:
        prototypes = import_rows("m", 1000)
        for number in range(count):
            yield named(prototypes[number % 1000], f"memory-{number}")

    async with UserManager(address) as manager:
        started = time.perf_counter()
        await manager.import_users(source(), on_progress=show)
        rate = count / (time.perf_counter() - started)
    sys.stdout.write("\n".join([f"memory during {count:,} rows ({rate:,.0f} users/s)", *shown, ""]))


def _kinds(count: int) -> Iterator[tuple[str, OnDuplicate, list[dict[str, Any]]]]:
    """Yields imports: a name, what they do with a user that exists, and their rows."""
    rows = import_rows("held", count)
    yield "new users", "FAIL", rows
    yield "users that exist", "FAIL", rows
    yield "merged users", "MERGE", [{**row, "metadata": {"merged": True}} for row in rows]
    yield "replaced users", "REPLACE", rows
    text = {"text": "x" * _LARGE}
    yield "rows of 60 kB", "FAIL", [{"user_id": f"large-{number}", "metadata": text} for number in range(count // 50)]
    yield "invalid rows", "FAIL", [{**row, "user_id": " "} for row in rows]


def _held(store: Store, folder: Path, count: int) -> None:
    """Prints the longest turns of the event loop of the service during imports."""
    file = folder / "held.json"
    command = [sys.executable, "-m", "benchmarks.held_loop", str(file), "serve", "--listen", "127.0.0.1:0"]
    with programs.Program("held", [*command, "--redis-url", store.url], folder) as service:
        for name, mode, rows in _kinds(count):
            found = _turns(f"127.0.0.1:{service.port}", service.pid, file, rows, mode)
            longest = ", ".join(f"{each:.2f}" for each in found["longest"])
            sys.stdout.write(f"longest turns of the event loop, {name}: {longest} ms of CPU ({found['turns']} turns)\n")


def _turns(address: str, pid: int, file: Path, rows: list[dict[str, Any]], mode: OnDuplicate) -> Any:
    with SyncUserManager(address) as manager:
        manager.import_users(rows[:_ROWS_PER_SCRIPT], on_duplicate=mode, validate_only=True)  # warms up
        os.kill(pid, signal.SIGUSR1)
        manager.import_users(rows, on_duplicate=mode)
        os.kill(pid, signal.SIGUSR2)
        while not file.exists():
            time.sleep(0.01)
    found = json.loads(file.read_text())
    file.unlink()
    return found


async def _rates(address: str, store: Store, rounds: int, size: int) -> None:
    """Prints the rates of imports, of AddUser and of the script."""
    rates = {kind: statistics.median(found) for kind, found in (await _rounds(address, store, rounds, size)).items()}
    for kind, rate in rates.items():
        sys.stdout.write(f"{kind:8} {rate:10,.0f} users/s\n")
    sys.stdout.write(f"import relative to add: {rates['import'] / rates['add']:.1f}\n")
    sys.stdout.write(f"import relative to the script: {rates['import'] / rates['script']:.2f}\n")


async def _latency(served: Served, rounds: int, size: int) -> None:
    """Prints the p99 of GetUser beside an import at half of its full rate."""
    async with UserManager(served.address) as manager:
        rate = statistics.median([await _import(manager, import_rows(f"l{number}", size)) for number in range(3)])
    await import_latency.measure(served, rate / 2, rounds)


async def _parts(arguments: argparse.Namespace, store: Store, service: Program, folder: Path) -> None:
    """Measures the parts that use one service."""
    served = Served(f"127.0.0.1:{service.port}", store.url, (service.pid, store.pid), folder)
    if "rates" in arguments.parts:
        await _rates(served.address, store, arguments.rounds, arguments.rows)
    if "latency" in arguments.parts:
        await _latency(served, arguments.latency_rounds, arguments.rows)
    if "memory" in arguments.parts:
        await _memory(served.address, service.pid, arguments.memory_rows)


def main() -> None:
    """Starts a store and a service, and measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="the parts to measure; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; the medians are printed")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of one import")
    parser.add_argument("--latency-rounds", type=int, default=3, help="rounds of the p99 of GetUser")
    parser.add_argument("--memory-rows", type=int, default=1_000_000, help="rows of the import for the memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as name, stores.running(Path(name)) as store:
        store.fill(1000)
        with programs.service("service", store.url, Path(name)) as service:
            asyncio.run(_parts(arguments, store, service, Path(name)))
        if "turns" in arguments.parts:
            _held(store, Path(name), arguments.rows)


if __name__ == "__main__":
    main()
