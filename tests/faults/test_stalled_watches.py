"""Watches that are not read use little memory, delay no other watch, end, and resume without a gap."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness.connections import Stubs, connect
from harness.failures import failure_of
from harness.feeds import brief, feed_on, rest_of, start, watching
from harness.metrics import METRICS, metrics_address, scrape
from harness.services import Service, resident
from harness.stores import Store
from harness.waiting import until

from userservice.v1.user_service_pb2 import AddUserRequest

pytestmark = pytest.mark.long

MIB = 1 << 20
HELD_BACK = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
WATCHES = 40
USERS = 200
TEXT = "x" * 60_000  # 12 MB of users: more than the network buffers hold, and more than the service keeps


async def write(stubs: Stubs, prefix: str) -> None:
    request = AddUserRequest()
    request.metadata["text"] = TEXT
    for number in range(USERS):
        request.user_id = f"{prefix}{number}"
        await stubs.users.AddUser(request)


@contextlib.asynccontextmanager
async def unread(address: str, **position: Any) -> AsyncIterator[list[Any]]:
    """Calls whose client does not read."""
    async with connect(address, *HELD_BACK) as stubs:
        calls = [stubs.users.WatchUsers(start(**position, heartbeat_seconds=600)) for _ in range(WATCHES)]
        for call in calls:
            await call.initial_metadata()
        yield calls
        for call in calls:
            call.cancel()


END, OLDER, SNAPSHOT = "the end of the feed", "older changes", "a snapshot"


@pytest.mark.parametrize("reads", [END, OLDER, SNAPSHOT])
async def test_watches_that_are_not_read(reads: str) -> None:
    """A watch holds at most 1 MiB, whether all watches share their reads or each watch reads by itself."""
    with Store() as store, Service(*METRICS, "--stall-timeout", "5", redis_url=store.url) as service:
        metrics = metrics_address(service)

        def gauge(name: str) -> float:
            return scrape(metrics).value(f"userservice_{name}")

        await feed_on(store.url)
        async with connect(service.address) as stubs, watching(stubs, now=True) as read:
            token = read.token
            await write(stubs, "before" if reads == END else "u")  # fills the kept end of the feed
            await read.has(USERS)
            if reads == END:
                token = read.token
            position = {"snapshot": True} if reads == SNAPSHOT else {"resume_token": token}
            before = resident(service.pid)
            async with unread(service.address, **position) as watches:
                if reads == END:
                    await write(stubs, "u")
                if reads != SNAPSHOT:
                    await asyncio.to_thread(until, lambda: gauge("watch_lag_seconds") > 1)
                await asyncio.sleep(1)  # until the memory of all watches stops growing
                grown = resident(service.pid) - before
                print(f"{reads}: {grown / WATCHES / MIB:.2f} MiB per watch")  # noqa: T201
                assert gauge("watches") == WATCHES + 1
                await stubs.users.AddUser(AddUserRequest(user_id="last"))
                await read.until(lambda: brief(read.changes[-1])[1] == "last", within=5)
                assert grown < WATCHES * MIB
                await asyncio.to_thread(until, lambda: gauge("watches") == 1, 30)
                messages, error = await rest_of(watches[0])
                assert (failure_of(error).code, failure_of(error).reason) == ("UNAVAILABLE", "READER_STALLED")
                changes = [change for message in messages for change in message.changes]
                assert 0 < len(changes) < USERS
            async with watching(stubs, resume_token=messages[-1].resume_token) as resumed:
                await resumed.until(lambda: any(brief(change)[1] == "last" for change in resumed.changes))
                user_ids = [brief(change)[1] for change in (*changes, *resumed.changes)]
            # A snapshot can contain "last", which then follows as a change too.
            assert user_ids[: USERS + 1] == [*(f"u{number}" for number in range(USERS)), "last"]
            await asyncio.to_thread(until, lambda: gauge("watch_lag_seconds") == 0)
