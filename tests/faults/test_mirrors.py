"""A copy of all users, made by a snapshot and its changes, equals the store after cuts and restarts during writes.

FAULTS=full: for 10 minutes, with more than 50 cuts and with 20 restarts.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from harness.feeds import feed_on
from harness.mirrors import Mirror
from harness.population import fill
from harness.ports import free_port
from harness.services import Service
from harness.sizing import FULL, sized
from harness.stores import Store

from userservice import User, UserManager

pytestmark = pytest.mark.long

USERS = 2000
WRITERS = 6
RESTARTS = sized(3, 10)  # of the service (SIGKILL) and of the store, each
PAUSE = 30.0 if FULL else 1.2  # seconds between two restarts
LONGEST_WATCH = sized(60, 2000)  # messages until a watch is cut
CUTS = sized(RESTARTS, 50)  # there must be more cuts


class CutMirror(Mirror):
    """A mirror whose watch is cut after a random number of messages, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.cuts = 0

    async def follow_with_cuts(self, address: str) -> None:
        """Follows changes until cancelled. No token may expire."""
        choose = random.Random(3)  # noqa: S311
        while True:
            async with UserManager(address, timeout=60) as manager:
                await self.follow(manager, choose.randrange(1, LONGEST_WATCH))
            self.cuts += 1


async def write(manager: UserManager, writer: int) -> None:
    """Adds, updates and deletes the users of a writer until cancelled. The manager repeats interrupted writes."""
    choose = random.Random(writer)  # noqa: S311
    present = [f"u{number}" for number in range(writer, USERS, WRITERS)]
    for number in range(1_000_000):
        kind = choose.choice(["add", "update", "update", "delete"])
        if kind == "add":
            present.append((await manager.add(user_id=f"w{writer}-{number}")).user_id)
        elif kind == "update":
            await manager.update(user_id=choose.choice(present), email=f"{number}@example.com")
        else:
            await manager.delete(present.pop(choose.randrange(len(present))))


@contextlib.asynccontextmanager
async def writing(address: str) -> AsyncIterator[None]:
    async with UserManager(address, timeout=60) as manager:
        tasks = [asyncio.create_task(write(manager, writer)) for writer in range(WRITERS)]
        yield
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome


async def all_users(address: str) -> dict[str, User]:
    async with UserManager(address) as manager:
        return {user.user_id: user async for users in manager.list_chunked() for user in users}


@pytest.mark.timeout(sized(300, 900))
async def test_a_mirror_equals_the_store_after_cuts_and_restarts() -> None:
    mirror, listen = CutMirror(), f"127.0.0.1:{free_port()}"
    with Store(append_only=True, options=("--appendfsync", "always")) as store, contextlib.ExitStack() as running:
        fill(store, (f"u{number}" for number in range(USERS)))
        service = running.enter_context(Service(redis_url=store.url, listen=listen))
        await feed_on(store.url)
        following = asyncio.create_task(mirror.follow_with_cuts(listen))
        async with writing(listen):
            for _ in range(RESTARTS):
                await asyncio.sleep(PAUSE)
                service.kill()
                service = await asyncio.to_thread(Service, redis_url=store.url, listen=listen)
                running.enter_context(service)
                await asyncio.sleep(PAUSE)
                await asyncio.to_thread(store.restart)
        expected = await all_users(listen)
        async with asyncio.timeout(30):
            while mirror.users != expected:
                if following.done():
                    await following
                await asyncio.sleep(0.1)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert len(mirror.snapshot) == len(set(mirror.snapshot)) > USERS // 2  # no user twice, across all cuts
    print(f"{len(expected)} users, {mirror.cuts} cuts, {2 * RESTARTS} restarts")  # noqa: T201 - the figure
    assert mirror.cuts > CUTS
