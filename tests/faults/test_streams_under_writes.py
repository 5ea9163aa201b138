"""A stream of all users during writes, lost connections and a restart returns each user exactly once.

During the stream, more than two thousand writes per second are made over gRPC (harness/writing.py).
"""

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest
from harness.population import fill, struct
from harness.ports import free_port
from harness.proxies import Proxy
from harness.services import Service
from harness.sizing import FULL, sized
from harness.stores import Store
from harness.waiting import until
from harness.writing import SteadyWrites

from userservice import User, UserManager

USERS = sized(4000, 100_000)
RATE = 2500  # writes a second that are tried
LEAST_RATE = sized(1, 2000)
SECONDS = sized(0, 5)  # for which one stream follows the other
CUTS = 20
QUIET = ("--log-level", "error")
VOLATILE = 10  # every tenth user may be deleted
CHUNK_SIZES = [1, 10, 100, 1000, 10_000] if FULL else [7, 1000]


def assert_exactly_once(seen: Counter[str]) -> None:
    stable = [f"u{number}" for number in range(USERS) if number % VOLATILE]
    assert [user_id for user_id in stable if seen[user_id] != 1] == []
    assert [user_id for user_id, times in seen.items() if times != 1] == []


def note(users: Iterable[User], seen: Counter[str]) -> None:
    for user in users:
        seen[user.user_id] += 1
        assert user.metadata["twin"] == user.email, "fields of different writes"


def writing(service: Service, dice: random.Random) -> SteadyWrites:
    volatile = [f"u{number}" for number in range(0, USERS, VOLATILE)]
    dice.shuffle(volatile)
    stable = [f"u{number}" for number in range(USERS) if number % VOLATILE]
    return SteadyWrites(service.port, RATE, stable, volatile, dice)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        metadata = struct({"twin": "0", "filling": "x" * (200 if FULL else 1000)})
        fill(store, (f"u{number}" for number in range(USERS)), email="0", metadata=metadata)
        yield store


@pytest.mark.timeout(300)
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
async def test_under_writes(store: Store, dice: random.Random, chunk_size: int) -> None:
    streams = 0
    with Service(*QUIET, redis_url=store.url) as service:
        async with UserManager(service.address, timeout=60) as manager:
            with writing(service, dice) as writes:
                await asyncio.to_thread(until, lambda: writes.succeeded > 100)
                started, written = time.monotonic(), -writes.succeeded
                while streams == 0 or time.monotonic() < started + SECONDS:
                    streams += 1
                    seen: Counter[str] = Counter()
                    async for users in manager.list_chunked(chunk_size=chunk_size):
                        note(users, seen)
                    assert_exactly_once(seen)
                written += writes.succeeded
                rate = written / (time.monotonic() - started)
    print(f"chunks of {chunk_size}: {streams} streams, {rate:.0f} writes/s, {dict(writes.done)}")  # noqa: T201
    assert min(writes.done[kind] for kind in ("add", "update", "delete")) > 0
    assert rate >= LEAST_RATE


class Restarts:
    """Restarts the service on its port in a separate thread, while a reader runs."""

    def __init__(self, store: Store) -> None:
        self._store_url, self._listen = store.url, f"127.0.0.1:{free_port()}"
        self.service = self._started()
        self._thread: threading.Thread | None = None

    def _started(self) -> Service:
        return Service(*QUIET, "--grace", "1", redis_url=self._store_url, listen=self._listen)

    def restart(self) -> None:
        def work() -> None:
            self.service.stop()
            self.service.__exit__()
            self.service = self._started()

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def close(self) -> None:
        if self._thread:
            self._thread.join()
        self.service.__exit__()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES if FULL else [100])
async def test_under_writes_cuts_and_a_restart(store: Store, dice: random.Random, chunk_size: int) -> None:
    part = USERS * 8 // 10 // CUTS
    at = {number * part + dice.randrange(part) for number in range(1, CUTS + 1)}
    restarts = Restarts(store)
    seen: Counter[str] = Counter()
    with (
        contextlib.closing(restarts),
        Proxy(restarts.service.port) as proxy,
        writing(restarts.service, dice) as writes,
    ):
        started = time.monotonic()
        # The small window keeps the reader close to the server, else a short stream is over before the first cut.
        options = [("grpc.http2.lookahead_bytes", 65536)]
        async with UserManager(proxy.address, timeout=60, channel_options=options) as manager:
            async for users in manager.list_chunked(chunk_size=chunk_size):
                before = len(seen)
                note(users, seen)
                if any(before <= place < len(seen) for place in at):
                    proxy.cut_all()
                    await asyncio.sleep(0.01)
                if before <= USERS // 2 < len(seen):
                    restarts.restart()
                    await asyncio.sleep(0.1)
        rate = writes.succeeded / (time.monotonic() - started)
    print(f"chunks of {chunk_size}: {proxy.accepted} connections, {rate:.0f} writes/s")  # noqa: T201 - the figure
    assert_exactly_once(seen)
    assert proxy.accepted > sized(3, CUTS // 2)
    assert writes.succeeded > 100
