"""The feed of changes: turning it on, and reading it with raw stubs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from harness.connections import Stubs
from userservice.v1.user_watch_pb2 import Change, ChangeKind, WatchUsersRequest, WatchUsersResponse
from userservice_server.config import Store as StoreSettings
from userservice_server.process.store_opening import open_store
from userservice_server.store.feed import FeedSettings, RedisFeed

USERS, SESSIONS = 1, 2
T = TypeVar("T")


async def with_feed(url: str, act: Callable[[RedisFeed], Awaitable[T]]) -> T:
    store = await open_store(StoreSettings(redis_url=url), lambda: False, lambda: None, 5, None)
    try:
        return await act(RedisFeed(store))
    finally:
        await store.close()


async def feed_on(url: str, **limits: Any) -> None:
    """Turns the feed on, without the pause for servers of an earlier version, which these tests do not run."""
    await with_feed(url, lambda feed: feed.turn_on(FeedSettings(**limits), pause=0))


async def feed_off(url: str) -> None:
    await with_feed(url, RedisFeed.turn_off)


def start(**fields: Any) -> WatchUsersRequest:
    """Returns a request with short heartbeats."""
    return WatchUsersRequest(**{"heartbeat_seconds": 1, **fields})


class Watching:
    """A watch over raw stubs, whose messages are collected."""

    def __init__(self, stubs: Stubs, request: WatchUsersRequest) -> None:
        self.messages: list[WatchUsersResponse] = []
        self.call = stubs.users.WatchUsers(request)
        self._arrived = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.call:
            self.messages.append(message)
            self._arrived.set()

    @property
    def changes(self) -> list[Change]:
        return [change for message in self.messages for change in message.changes]

    @property
    def token(self) -> str:
        return self.messages[-1].resume_token

    async def until(self, condition: Callable[[], bool], within: float = 20) -> None:
        """Waits until the condition holds; raises the error that ended the watch."""
        async with asyncio.timeout(within):
            while not condition():
                if self._reading.done():
                    await self._reading
                    raise AssertionError("the watch has ended")
                self._arrived.clear()
                waiting = asyncio.create_task(self._arrived.wait())
                await asyncio.wait((waiting, self._reading), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()

    async def has(self, count: int) -> list[Change]:
        """Waits until at least ``count`` changes have arrived."""
        await self.until(lambda: len(self.changes) >= count)
        return self.changes

    async def ended(self) -> None:
        """Waits for the end of the call; raises its error."""
        await self._reading

    async def close(self) -> None:
        self.call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


@contextlib.asynccontextmanager
async def watching(stubs: Stubs, **fields: Any) -> AsyncIterator[Watching]:
    """A watch that has started: its first message has arrived."""
    watch = Watching(stubs, start(**fields))
    try:
        await watch.until(lambda: bool(watch.messages))
        yield watch
    finally:
        await watch.close()


async def rest_of(call: Any) -> tuple[list[WatchUsersResponse], grpc.aio.AioRpcError]:
    """Reads a watch to its end; returns the messages, and the error that ended it."""
    messages = []
    try:
        async with asyncio.timeout(30):
            while isinstance(message := await call.read(), WatchUsersResponse):
                messages.append(message)
    except grpc.aio.AioRpcError as error:
        return messages, error
    raise AssertionError("the watch has ended without an error")


def brief(change: Change) -> tuple[str, str]:
    """Returns the kind of a change, and the key of its record."""
    kind = ChangeKind.Name(change.kind).removeprefix("CHANGE_KIND_")
    if kind.startswith("SESSION"):
        return kind, change.session.session_id or change.session_id
    return kind, change.user.user_id or change.user_id
