"""A power cut: only the part of the append-only file that was flushed to disk is left. SIGKILL cannot test this."""

import asyncio
import itertools
import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from harness.connections import Stubs, connect, connect_blocking
from harness.failures import failure_of
from harness.services import Service
from harness.sizing import FULL, sized
from harness.stores import BACKENDS, Store
from harness.tools import missing
from harness.waiting import until

from userservice import ImportStatus, UserManager
from userservice.v1.user_service_pb2 import AddUserRequest, GetUserRequest
from userservice_server.check import check

WRITERS = 64
PRICE_SECONDS = 3
LEAST_WRITTEN = 100  # before a cut
WINDOW = 2.0  # seconds: Redis forces to disk every second, and waits up to another one for a slow disk


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        missing("a C compiler is not installed (apt-get install gcc)")
    library = tmp_path_factory.mktemp("witness") / "witness.so"
    source = Path(__file__).parent / "fsync_witness.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library


class Machine:
    """A store whose power can be cut."""

    def __init__(self, backend: str, fsync: str, witness: Path, notes: Path) -> None:
        self._notes = notes
        options = ["--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0"]
        preloaded = {"LD_PRELOAD": str(witness), "FSYNC_WITNESS": str(notes)}
        self.store = Store(backend, append_only=True, options=options, environment=preloaded)

    def on_disk(self) -> dict[str, int]:
        """Returns the number of bytes of each file that were flushed to disk."""
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        return {path: int(size) for size, _, path in (line.partition(" ") for line in lines if line)}

    def has_kept_something(self) -> bool:
        """Returns whether the first writes, which create the layout, are on disk."""
        return any(size for path, size in self.on_disk().items() if path.endswith(".incr.aof"))

    def cut_power(self) -> int:
        """Truncates each file to the part that was flushed to disk; returns the number of lost bytes."""
        self.store.kill()
        kept, lost = self.on_disk(), 0
        for log in (self.store.directory / "appendonlydir").glob("*.aof"):
            size, on_disk = log.stat().st_size, kept.get(str(log), 0)
            if log.name.endswith(".incr.aof") and size > on_disk:
                os.truncate(log, on_disk)
                lost += size - on_disk
        self.store.start()
        return lost


class Writers:
    """Adds users concurrently, and records when each add was acknowledged."""

    def __init__(self, name: str) -> None:
        self.acknowledged: dict[str, float] = {}
        self.refusals: set[str] = set()
        self._name = name

    async def write(self, address: str, seconds: float) -> None:
        """Writes for the given time, or until the store is unavailable."""
        end = time.monotonic() + seconds
        async with connect(address) as stubs:
            await asyncio.gather(*(self._work(stubs, number, end) for number in range(WRITERS)))

    async def _work(self, stubs: Stubs, writer: int, end: float) -> None:
        number = 0
        while time.monotonic() < end:
            user_id = f"{self._name}-{writer}-{number}"
            try:
                await stubs.users.AddUser(AddUserRequest(user_id=user_id), timeout=10)
            except grpc.aio.AioRpcError as error:
                self.refusals.add(failure_of(error).reason)
                return
            self.acknowledged[user_id] = time.monotonic()
            number += 1


async def write_until_power_cut(writers: Writers, machine: Machine, address: str, seconds: float) -> tuple[int, float]:
    """Writes until the power is cut; returns the number of lost bytes and the time of the cut."""
    writing = asyncio.create_task(writers.write(address, 30))
    await asyncio.sleep(seconds)
    while len(writers.acknowledged) <= LEAST_WRITTEN and not writing.done():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    at = time.monotonic()
    lost = await asyncio.to_thread(machine.cut_power)
    await writing
    return lost, at


def answers(address: str) -> bool:
    """Returns whether the service is connected to its store again."""
    with connect_blocking(address) as stubs:
        try:
            stubs.users.GetUser(GetUserRequest(user_id="nobody"), timeout=5)
        except grpc.RpcError as error:
            return failure_of(error).code == "NOT_FOUND"
    return True


def stored(store: Store) -> set[str]:
    with store.client() as client:
        return {user_id.decode() for user_id in client.hkeys("userservice:{0}:user_ids")}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("fsync", ["always", pytest.param("everysec", marks=pytest.mark.long)])
@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_power_cuts(backend: str, fsync: str, witness: Path, tmp_path: Path, dice: random.Random) -> None:
    cuts = sized(1, 13)
    machine = Machine(backend, fsync, witness, tmp_path / "notes")
    bytes_lost, writes, lost, window = 0, 0, 0, 0.0
    with machine.store as store, Service("--log-level", "error", redis_url=store.url) as service:
        until(machine.has_kept_something)
        for number in range(cuts):
            until(lambda: answers(service.address))  # else all writers would be refused before the cut
            writers = Writers(f"c{number}")
            cut, at = asyncio.run(write_until_power_cut(writers, machine, service.address, dice.uniform(0.3, 2.2)))
            assert writers.refusals == {"STORE_UNAVAILABLE"}
            assert writers.acknowledged, "nothing was written before the cut"
            bytes_lost += cut
            kept = stored(store)
            gone = [when for user_id, when in writers.acknowledged.items() if user_id not in kept]
            writes, lost = writes + len(writers.acknowledged), lost + len(gone)
            window = max([window, *(at - when for when in gone)])
            assert [finding.what for finding in check(store.url, "userservice", 10).findings] == []
    print(f"{backend} {fsync}: {cuts} cuts, {bytes_lost} bytes; {lost} of {writes} lost, of {window:.2f} s")  # noqa: T201
    assert writes > LEAST_WRITTEN * cuts
    if fsync == "always":
        assert lost == 0
    else:
        assert lost > 0, "the cut took nothing, so nothing was shown"
        assert window <= WINDOW


async def import_over_power_cut(machine: Machine, address: str, import_id: str, least: int) -> tuple[int, int]:
    """Imports rows before and after a power cut; returns the offset acknowledged before, and the last offset.

    The manager raises ImportOffsetGapError if the store has lost an acknowledged offset.
    """
    acknowledged, before, enough = 0, 0, asyncio.Event()

    def report(status: ImportStatus) -> None:
        nonlocal acknowledged
        acknowledged = status.offset
        if acknowledged >= least:
            enough.set()

    is_cut = False
    rows = (
        {"user_id": f"{import_id}-{number}"} for number in itertools.takewhile(lambda _: not is_cut, itertools.count())
    )
    async with UserManager(address, timeout=30) as users:
        importing = asyncio.create_task(users.import_users(rows, import_id=import_id, on_progress=report))
        await enough.wait()
        before = acknowledged
        await asyncio.to_thread(machine.cut_power)
        is_cut = True
        return before, (await importing).offset


@pytest.mark.timeout(120)
def test_an_acknowledged_offset_of_an_import_survives_a_power_cut(witness: Path, tmp_path: Path) -> None:
    machine = Machine("valkey", "always", witness, tmp_path / "notes")
    with machine.store as store, Service("--log-level", "error", redis_url=store.url) as service:
        until(machine.has_kept_something)
        import_id = str(uuid4())
        before, after = asyncio.run(import_over_power_cut(machine, service.address, import_id, sized(2000, 20_000)))
        assert 0 < before < after
        assert stored(store) == {f"{import_id}-{number}" for number in range(after)}
        assert [finding.what for finding in check(store.url, "userservice", 10).findings] == []


@pytest.mark.skipif(not FULL, reason="a measurement; FAULTS=full")
def test_the_throughput_of_fsync_always(tmp_path: Path) -> None:
    rates: dict[str, list[float]] = {"always": [], "everysec": []}
    for round_ in range(3):
        for fsync, measured in rates.items():
            data = tmp_path / f"{fsync}{round_}"
            with Service("--fsync", fsync, "--log-level", "error", data_dir=data) as service:
                writers = Writers("w")
                asyncio.run(writers.write(service.address, PRICE_SECONDS))
                measured.append(len(writers.acknowledged) / PRICE_SECONDS)
    best = {fsync: max(measured) for fsync, measured in rates.items()}
    print(f"{WRITERS} writers: {rates}")  # noqa: T201
    print(f"fsync always has {best['always'] / best['everysec']:.0%} of the throughput of everysec")  # noqa: T201
