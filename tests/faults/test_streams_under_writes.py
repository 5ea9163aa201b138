"""A stream of all users while others write, connections are cut and the server is restarted: each one exactly once."""

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import pytest
from harness.connections import Stubs, connect
from harness.failures import failure_of
from harness.population import fill, struct
from harness.proxies import Proxy
from harness.services import Service
from harness.sizing import FULL, sized
from harness.stores import Store, free_port

from userservice import User, UserManager
from userservice.v1.user_service_pb2 import AddUserRequest, DeleteUserRequest, UpdateUserRequest

USERS = sized(4000, 100_000)
VOLATILE = 10  # every tenth user may be deleted
CHUNK_SIZES = [1, 10, 100, 1000, 10_000] if FULL else [7, 1000]


@dataclass
class Writes:
    """Adds, updates and deletes at a steady pace, until told to stop."""

    dice: random.Random
    done: Counter[str] = field(default_factory=Counter)
    stop: bool = False

    async def work(self, stubs: Stubs, at_once: int) -> None:
        await asyncio.gather(*(self._work(stubs, number) for number in range(at_once)))

    async def _work(self, stubs: Stubs, worker: int) -> None:
        number = 0
        while not self.stop:
            number += 1
            kind = self.dice.choice(["add", "update", "update", "delete"])
            try:
                await self._write(stubs, kind, worker, number)
                self.done[kind] += 1
            except grpc.aio.AioRpcError as error:
                reason = failure_of(error).reason or error.code().name
                self.done[reason] += 1
                if reason != "USER_NOT_FOUND":
                    await asyncio.sleep(0.05)

    async def _write(self, stubs: Stubs, kind: str, worker: int, number: int) -> None:
        target = self.dice.randrange(USERS)
        if kind == "add":
            await stubs.users.AddUser(
                AddUserRequest(user_id=f"new-{worker}-{number}", email="0", metadata=struct({"twin": "0"})), timeout=10
            )
        elif kind == "update":
            email = f"{worker}-{number}"
            metadata = struct({"twin": email, "filling": "x" * self.dice.randrange(300)})
            request = UpdateUserRequest(user_id=f"u{target}", email=email, metadata=metadata)
            await stubs.users.UpdateUser(request, timeout=10)
        else:
            target -= target % VOLATILE
            await stubs.users.DeleteUser(DeleteUserRequest(user_id=f"u{target}"), timeout=10)


def assert_exactly_once(seen: Counter[str]) -> None:
    stable = [f"u{number}" for number in range(USERS) if number % VOLATILE]
    assert [user_id for user_id in stable if seen[user_id] != 1] == []
    assert [user_id for user_id, times in seen.items() if times != 1] == []


def assert_whole(user: User) -> None:
    """Both fields that a write sets are of the same write."""
    assert user.metadata["twin"] == user.email


@contextlib.asynccontextmanager
async def writing(address: str, dice: random.Random) -> AsyncIterator[Writes]:
    writes = Writes(dice)
    async with connect(address) as stubs:
        task = asyncio.create_task(writes.work(stubs, 16))
        yield writes
        writes.stop = True
        await task


@pytest.fixture
def store() -> "AsyncIterator[Store]":
    with Store() as store:
        metadata = struct({"twin": "0", "filling": "x" * (200 if FULL else 1000)})
        fill(store, (f"u{number}" for number in range(USERS)), email="0", metadata=metadata)
        yield store  # type: ignore[misc]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
async def test_under_writes(store: Store, dice: random.Random, chunk_size: int) -> None:
    with Service("--log-level", "error", redis_url=store.url) as service:
        async with writing(service.address, dice) as writes, UserManager(service.address, timeout=60) as manager:
            seen: Counter[str] = Counter()
            started = time.monotonic()
            async for users in manager.list_chunked(chunk_size=chunk_size):
                for user in users:
                    seen[user.user_id] += 1
                    assert_whole(user)
            seconds = time.monotonic() - started
    print(f"chunks of {chunk_size}: {seconds:.1f} s, {writes.done.total() / seconds:.0f} writes/s, {dict(writes.done)}")  # noqa: T201
    assert_exactly_once(seen)
    assert min(writes.done[kind] for kind in ("add", "update", "delete")) > 0


class Restarts:
    """Restarts the service at its port when told to, beside the reader."""

    def __init__(self, store: Store) -> None:
        self._arguments = {"redis_url": store.url, "listen": f"127.0.0.1:{free_port()}"}
        self.service = Service("--log-level", "error", "--grace", "1", **self._arguments)
        self._thread: threading.Thread | None = None

    def restart(self) -> None:
        def work() -> None:
            self.service.stop()
            self.service.__exit__()
            self.service = Service("--log-level", "error", "--grace", "1", **self._arguments)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def close(self) -> None:
        if self._thread:
            self._thread.join()
        self.service.__exit__()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES[1:] if FULL else [100])
async def test_under_writes_cuts_and_a_restart(store: Store, dice: random.Random, chunk_size: int) -> None:
    cuts = 20
    restarts = Restarts(store)
    seen: Counter[str] = Counter()
    with contextlib.closing(restarts), Proxy(restarts.service.port) as proxy:
        at = set(dice.sample(range(USERS // 50, USERS * 8 // 10), cuts))
        async with writing(restarts.service.address, dice) as writes:
            # The small window keeps the reader close to the server, else a short stream is over before the first cut.
            options = [("grpc.http2.lookahead_bytes", 65536)]
            async with UserManager(proxy.address, timeout=60, channel_options=options) as manager:
                async for users in manager.list_chunked(chunk_size=chunk_size):
                    before = len(seen)
                    for user in users:
                        seen[user.user_id] += 1
                        assert_whole(user)
                    for _ in [place for place in at if before <= place < len(seen)]:
                        proxy.cut_all()
                        await asyncio.sleep(0.01)
                    if before <= USERS // 2 < len(seen):
                        restarts.restart()
                        await asyncio.sleep(0.1)
    print(f"chunks of {chunk_size}: {proxy.accepted} connections, {dict(writes.done)}")  # noqa: T201
    assert_exactly_once(seen)
    assert proxy.accepted > 3
