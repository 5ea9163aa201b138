"""Sessions that expire: the sweeper, the maximum number of sessions, and the number of writes by touches."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from harness.connections import Stubs, connect
from harness.failures import failure_of
from harness.population import add_users
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1.session_pb2 import Session
from userservice.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    RevokeUserSessionsRequest,
    TouchSessionRequest,
)
from userservice.v1.user_service_pb2 import DeleteUserRequest, GetUserSessionsRequest
from userservice_server.check import check
from userservice_server.config import Store as StoreSettings
from userservice_server.process.store_opening import open_store
from userservice_server.store.sweeping import Step
from userservice_server.wire.expiry import MOST_SESSIONS
from userservice_server.wire.records import frame

ROWS, INDEX, EXPIRY = (f"userservice:{{0}}:{kind}:ada" for kind in ("sessions", "session_ids", "session_expiry"))
QUEUE = "userservice:{0}:expiry"


@pytest.fixture(scope="module")
def own_store() -> Iterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture
async def stubs(own_store: Store) -> AsyncIterator[Stubs]:
    own_store.empty()
    with Service(redis_url=own_store.url) as service:
        async with connect(service.address) as connected:
            yield connected


def add(session_id: str, **fields: Any) -> AddSessionRequest:
    return AddSessionRequest(user_id="ada", session_id=session_id, **fields)


def seconds(count: float) -> Duration:
    return Duration(seconds=int(count), nanos=round(count % 1 * 1e9))


def findings(store: Store) -> list[str]:
    return [finding.what for finding in check(store.url, "userservice", 5).findings]


async def test_the_sweeper_removes_expired_sessions_and_nothing_else(stubs: Stubs, own_store: Store) -> None:
    await add_users(stubs, ["ada", "bob"])
    for number in range(300):
        await stubs.sessions.AddSession(add(f"short{number}", ttl=seconds(1)))
    await stubs.sessions.AddSession(add("long", ttl=seconds(1000)))
    await stubs.sessions.AddSession(add("endless"))
    await stubs.sessions.AddSession(AddSessionRequest(user_id="bob", session_id="s", ttl=seconds(1)))
    with own_store.client() as client:
        await asyncio.to_thread(
            until, lambda: client.zcard(ROWS) == 2 and not client.exists(EXPIRY.replace("ada", "bob"))
        )
        assert set(client.hkeys(INDEX)) == {b"long", b"endless"}
        assert client.zcard(EXPIRY) == 1
        await asyncio.to_thread(until, lambda: client.zcard(QUEUE) == 1)
        left = await stubs.users.GetUserSessions(GetUserSessionsRequest(user_id="ada", include_expired=True))
        assert [session.session_id for session in left.sessions] == ["long", "endless"]
        assert client.hmget("userservice:{0}:session_count", "added", "removed") == [b"303", b"301"]
    assert findings(own_store) == []


async def test_a_step_of_the_sweeper_returns_for_how_long_a_session_was_due(own_store: Store) -> None:
    own_store.empty()
    settings = StoreSettings(redis_url=own_store.url)
    service_store = await open_store(settings, lambda: False, lambda: None, 5, None)
    try:
        assert await service_store.sweepable() == []
        with own_store.client() as client:
            client.zadd(QUEUE, {"64": int((time.time() - 5000) * 1e6)})  # of a user that does not exist any more
            assert await service_store.sweepable() == [0]
            step = await service_store.sweep(0)
            assert step.users == 1
            assert 5000 <= step.overdue < 5060
            assert await service_store.sweep(0) == Step()
            assert not client.exists(QUEUE)
    finally:
        await service_store.close()


async def test_nothing_of_deleted_sessions_and_users_remains(stubs: Stubs, own_store: Store) -> None:
    await add_users(stubs, ["ada"])
    with own_store.client() as client:
        before = set(client.scan_iter())
        await stubs.sessions.AddSession(add("s", ttl=seconds(1000)))
        assert client.zcard(EXPIRY) == client.zcard(QUEUE) == 1
        await stubs.sessions.DeleteSession(DeleteSessionRequest(user_id="ada", session_id="s"))
        assert not client.exists(EXPIRY)
        await stubs.sessions.AddSession(add("s", idle_ttl=seconds(1000)))
        await stubs.sessions.RevokeUserSessions(RevokeUserSessionsRequest(user_id="ada"))
        assert set(client.scan_iter()) == before
        await stubs.sessions.AddSession(add("s", ttl=seconds(1000)))
        await stubs.sessions.AddSession(add("t", ttl=seconds(1000)))
        await stubs.sessions.RevokeUserSessions(RevokeUserSessionsRequest(user_id="ada", except_session_id="t"))
        assert (client.zcard(EXPIRY), client.zcard(QUEUE)) == (1, 1)
        assert findings(own_store) == []
        await stubs.users.DeleteUser(DeleteUserRequest(user_id="ada"))
        assert not [key for key in client.scan_iter() if b"ada" in key or key == QUEUE.encode()]
    assert findings(own_store) == []


async def test_a_session_that_is_touched_often_is_written_rarely(stubs: Stubs, own_store: Store) -> None:
    await add_users(stubs, ["ada"])
    await stubs.sessions.AddSession(add("s", idle_ttl=seconds(100)))
    request = TouchSessionRequest(user_id="ada", session_id="s")
    with own_store.client() as client:

        def writes() -> int:
            return int(client.info("commandstats")["cmdstat_zadd"]["calls"])

        before = writes()
        for _ in range(200):
            await stubs.sessions.TouchSession(request)
        assert writes() == before
        await stubs.sessions.AddSession(add("t"))  # has no last_seen_at, so the first touch writes
        before = writes()
        request.session_id = "t"
        await asyncio.gather(*(stubs.sessions.TouchSession(request) for _ in range(200)))
        assert writes() == before + 1


async def test_sessions_are_shown_until_they_expire_and_never_after(stubs: Stubs, own_store: Store) -> None:
    await add_users(stubs, ["ada"])
    for number in range(20):
        await stubs.sessions.AddSession(add(f"s{number}", idle_ttl=seconds(1)))

    async def touch(session_id: str) -> None:
        touching_until = time.monotonic() + 1.5
        with suppress(grpc.aio.AioRpcError):  # on a slow machine, the session may expire between two touches
            while time.monotonic() < touching_until:
                await stubs.sessions.TouchSession(TouchSessionRequest(user_id="ada", session_id=session_id))

    async def look() -> None:
        with own_store.client() as client:
            while True:
                whole, microseconds = client.time()
                page = await stubs.users.GetUserSessions(GetUserSessionsRequest(user_id="ada"))
                ends = [session.expire_time.ToMicroseconds() for session in page.sessions]
                assert all(end > whole * 1_000_000 + microseconds for end in ends)
                assert page.total_size >= len(ends)
                if not ends:
                    return

    await asyncio.gather(look(), *(touch(f"s{number}") for number in range(5)))


@pytest.mark.parametrize("expired", [False, True])
async def test_a_user_has_at_most_10_000_sessions(stubs: Stubs, own_store: Store, expired: bool) -> None:  # noqa: FBT001
    await add_users(stubs, ["ada"])
    first = (await stubs.sessions.AddSession(add("first", ttl=seconds(0.5 if expired else 1000)))).session
    with own_store.client() as client, client.pipeline() as pipeline:
        for number in range(MOST_SESSIONS - 1):
            session = Session(session_id=f"s{number}", id=first.id + 64 * (number + 1), user_id="ada")
            session.created_at.CopyFrom(first.created_at)
            pipeline.zadd(ROWS, {frame(session): session.id})
            pipeline.hset(INDEX, session.session_id, session.id)
        pipeline.set("userservice:{0}:last_id", first.id + 64 * MOST_SESSIONS)
        pipeline.hincrby("userservice:{0}:session_count", "added", MOST_SESSIONS - 1)
        pipeline.execute()
    if expired:
        await asyncio.sleep(0.5)
        await stubs.sessions.AddSession(add("more"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.sessions.AddSession(add("one too many"))
    failure = failure_of(refused.value)
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "SESSION_LIMIT")
    assert "10000" in failure.message
    if expired:
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.sessions.GetSession(GetSessionRequest(user_id="ada", session_id="first"))
    else:
        revoked = await stubs.sessions.RevokeUserSessions(RevokeUserSessionsRequest(user_id="ada"))
        assert revoked.revoked_count == MOST_SESSIONS


async def test_record_expiry_and_queue_agree_after_touches(stubs: Stubs, own_store: Store) -> None:
    await add_users(stubs, ["ada"])
    await stubs.sessions.AddSession(add("s", idle_ttl=seconds(5)))
    await asyncio.sleep(0.55)
    touched = await stubs.sessions.TouchSession(TouchSessionRequest(user_id="ada", session_id="s"))
    with own_store.client() as client:
        [(_, end)] = client.zrange(EXPIRY, 0, -1, withscores=True)
        assert end == touched.session.expire_time.ToMicroseconds()
        assert findings(own_store) == []
        client.zadd(EXPIRY, {str(touched.session.id): end + 1, "77": end})
        client.delete(QUEUE)
    found = findings(own_store)
    assert [text for text in found if "different times of expiry" in text]
    assert [text for text in found if "without session" in text]
    assert [text for text in found if "queue" in text]
