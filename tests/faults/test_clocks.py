"""The store's clock is wrong for a while: ids stay positive, ordered, unique and below 2^53."""

import asyncio
import logging
import shutil
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from harness.stores import BACKENDS, Store
from harness.tools import missing
from harness.waiting import until

from userservice.v1.user_pb2 import User
from userservice_server.check import check
from userservice_server.domain.ports import NO_IDEMPOTENCY_KEY, IdempotencyKey
from userservice_server.domain.stream_memory import ReadLimit
from userservice_server.domain.users import Users
from userservice_server.errors import StoreUnavailableError
from userservice_server.store.connection import RECONNECT_PAUSE
from userservice_server.store.failures import UnsuitableStoreError
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.topology.single import SingleServer
from userservice_server.wire import ids
from userservice_server.wire.records import record_id

HOUR, YEAR = 3600, 365 * 86_400
LAST_ID = "userservice:{0}:last_id"


class Clock:
    """A store whose clock can be set."""

    def __init__(self, backend: str, library: Path, file: Path) -> None:
        self._file = file
        file.write_bytes(struct.pack("=q", 0))
        environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(file)}
        self.store = Store(backend, environment=environment)

    def shift(self, seconds: int) -> None:
        """Sets the clock to the correct time plus the given seconds."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", seconds))
        with self.store.client() as client:  # which keeps the time of its last turn for a while
            until(lambda: abs(client.time()[0] - time.time() - seconds) < HOUR / 2)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        missing("a C compiler is not installed (apt-get install gcc)")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).parent / "clock_shift.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def shared(request: pytest.FixtureRequest, library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clock]:
    clock = Clock(request.param, library, tmp_path_factory.mktemp("shift") / "seconds")
    with clock.store:
        yield clock


@pytest.fixture
def clock(shared: Clock) -> Clock:
    shared.shift(0)
    shared.store.empty()
    return shared


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[RedisStore]:
    """A store that no service has opened, so that a test can set the clock before its layout is created."""
    store = RedisStore(SingleServer(clock.store.url), key_prefix="userservice", timeout=5)
    yield store
    await store.close()


async def add(store: RedisStore, user_id: str, idempotency_key: IdempotencyKey = NO_IDEMPOTENCY_KEY) -> int:
    return record_id(await Users(store, ReadLimit()).add(user_id, User(), idempotency_key))


def findings(clock: Clock) -> list[str]:
    return [finding.what for finding in check(clock.store.url, "userservice", 5).findings]


async def test_before_2025_ids_are_positive_and_in_order(clock: Clock, store: RedisStore) -> None:
    clock.shift(-10 * YEAR)
    await store.open()
    early = [await add(store, f"u{number}") for number in range(3)]
    assert early == [64, 128, 192]
    clock.shift(0)
    assert await add(store, "late") > early[-1]
    assert findings(clock) == []


async def test_a_clock_that_was_ahead_leaves_only_a_gap_in_the_ids(clock: Clock, store: RedisStore) -> None:
    await store.open()
    before = await add(store, "before")
    clock.shift(50 * YEAR)
    ahead = await add(store, "ahead")
    assert ahead - before > 49 * YEAR * ids.TICKS_A_SECOND * ids.PARTITIONS
    clock.shift(0)
    assert await add(store, "after") == ahead + ids.PARTITIONS
    assert findings(clock) == []


async def test_an_id_above_2_to_53_is_never_assigned(
    clock: Clock, store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.open()
    before = await add(store, "before")
    clock.shift(150 * YEAR)
    with caplog.at_level(logging.ERROR):
        for number in range(3):
            with pytest.raises(StoreUnavailableError, match="the store's clock is wrong"):
                await add(store, f"ahead{number}")
    assert [record.levelname for record in caplog.records if "clock" in record.getMessage()] == ["ERROR"]
    clock.shift(0)
    assert before < await add(store, "ahead0") <= ids.MAX_ID, "the refused id was remembered"
    assert findings(clock) == []


async def test_the_last_id_below_2_to_53_is_assigned_and_no_id_after_it(clock: Clock, store: RedisStore) -> None:
    await store.open()
    with clock.store.client() as client:
        client.set(LAST_ID, (ids.MAX_ID + 1) - 2 * ids.PARTITIONS)
    assert await add(store, "last") == ids.MAX_ID + 1 - ids.PARTITIONS
    with pytest.raises(StoreUnavailableError, match="clock"):
        await add(store, "more")
    assert findings(clock) == []


async def test_no_store_is_created_by_such_a_clock(clock: Clock, store: RedisStore) -> None:
    clock.shift(150 * YEAR)
    with pytest.raises(UnsuitableStoreError, match="clock is wrong"):
        await store.open()
    with clock.store.client() as client:
        assert client.dbsize() == 0
    clock.shift(0)
    await asyncio.sleep(RECONNECT_PAUSE)
    await store.open()


async def test_a_clock_set_back_an_hour_causes_no_findings_and_keeps_the_order(clock: Clock, store: RedisStore) -> None:
    await store.open()
    idempotency_key = IdempotencyKey("12345678-1234-1234-1234-123456789abc", b"f" * 16)
    before = await add(store, "before", idempotency_key)
    clock.shift(-HOUR)
    assert await add(store, "after") == before + ids.PARTITIONS
    assert await add(store, "before", idempotency_key) == before
    with clock.store.client() as client:
        assert client.pttl("userservice:{0}:request:" + idempotency_key.request_id) > 600_000, (
            "the clock was not set back"
        )
    assert findings(clock) == []


def test_an_id_counts_ticks_since_the_epoch() -> None:
    assert ids.id_at(ids.EPOCH_SECONDS + 1) == ids.TICKS_A_SECOND * ids.PARTITIONS
    assert ids.id_at(0) == 0
