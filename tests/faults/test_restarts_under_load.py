"""Repeated SIGTERM under load: no call of a manager fails, and resumed streams return each user once."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from harness.population import fill, struct
from harness.ports import free_port
from harness.services import Service
from harness.sizing import sized
from harness.stores import Store

from userservice import UserManager

pytestmark = pytest.mark.long

USERS = 3000
CALLERS = 8
GRACE = 2.0


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        fill(store, (f"u{number}" for number in range(USERS)), metadata=struct({"k": "x" * 1000}))
        yield store


class Load:
    """Callers that call without a pause, and a reader that repeatedly streams all users."""

    def __init__(self, address: str) -> None:
        self.calls = 0
        self.streams = 0
        self._manager = UserManager(address, timeout=60, channel_options=[("grpc.http2.lookahead_bytes", 65536)])

    async def run(self) -> None:
        async with self._manager, asyncio.TaskGroup() as tasks:
            for number in range(CALLERS):
                tasks.create_task(self._call(f"caller{number}"))
            tasks.create_task(self._read())

    async def _call(self, user_id: str) -> None:
        user = await self._manager.add(user_id=user_id)
        while True:
            user = await self._manager.update(user_id=user_id, metadata={"n": self.calls}, etag=user.etag)
            assert await self._manager.get(user_id) == user
            self.calls += 2

    async def _read(self) -> None:
        while True:
            seen: Counter[str] = Counter()
            async for users in self._manager.list_chunked(chunk_size=50):
                seen.update(user.user_id for user in users)
                await asyncio.sleep(0.02)  # so that streams last, and restarts meet them
            assert [number for number in range(USERS) if seen[f"u{number}"] != 1] == []
            assert max(seen.values()) == 1
            self.streams += 1


@pytest.mark.timeout(500)
async def test_sigterm_under_load(store: Store) -> None:
    stops = sized(3, 100)
    listen = f"127.0.0.1:{free_port()}"
    arguments = ["--grace", str(GRACE), "--log-level", "info", "--access-log", "false"]
    slowest, resumed, stopped = 0.0, 0, 0

    def serve() -> Service:
        return Service(*arguments, redis_url=store.url, listen=listen)

    service = serve()
    load = Load(listen)
    running = asyncio.create_task(load.run())
    try:
        for number in range(10 * stops):
            if number >= stops and resumed:
                break
            stopped, calls = number + 1, load.calls
            await asyncio.sleep(0.3)
            while load.calls == calls:  # each one is up and busy before it is stopped
                assert not running.done(), running.exception()
                await asyncio.sleep(0.01)
            started = time.monotonic()
            assert await asyncio.to_thread(service.stop) == 0
            slowest = max(slowest, time.monotonic() - started)
            resumed += sum(line.get("method") == "ListUsersChunked" for line in service.log)
            service.__exit__()
            service = await asyncio.to_thread(serve)
        streams = load.streams
        while load.streams == streams:
            assert not running.done(), running.exception()
            await asyncio.sleep(0.05)
    finally:
        running.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await running
        finally:
            service.__exit__()
    print(f"{stopped} stops, {load.calls} calls, {resumed} streams ended, exit within {slowest:.2f} s")  # noqa: T201
    assert resumed > 0, "no stream was met"
    assert slowest < GRACE + 1
