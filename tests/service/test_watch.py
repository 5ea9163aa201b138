"""WatchUsers: order, completeness, resumption, expired tokens and slow watches, on every topology of the store."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import pytest
from harness.connections import Stubs, connect
from harness.failures import failure_of
from harness.feeds import SESSIONS, USERS, Watching, brief, feed_off, feed_on, rest_of, start, watching
from harness.mirrors import Mirror
from harness.population import add_users, struct
from harness.services import Service
from harness.stores import Store
from harness.topologies import SHORT, TOPOLOGIES

from userservice import UserManager, WatchTokenExpiredError
from userservice.v1 import user_import_pb2 as imports
from userservice.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    RevokeUserSessionsRequest,
    TouchSessionRequest,
    UpdateSessionRequest,
)
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import AddUserRequest, DeleteUserRequest, GetUserRequest, UpdateUserRequest
from userservice.v1.user_watch_pb2 import Change, WatchUsersResponse
from userservice.v1.view_pb2 import VIEW_BASIC, VIEW_FULL, VIEW_ID
from userservice_server.check import check
from userservice_server.store.keys import Keys
from userservice_server.wire.watch_tokens import Reached, Token, feed_digest


def on_topologies(*short: str) -> pytest.MarkDecorator:
    """Runs a test on one server and on every topology; the test is long except on the ones named ``short``."""
    backends = [
        pytest.param(name, marks=[] if name in short else [pytest.mark.long]) for name in ("valkey", *TOPOLOGIES)
    ]
    return pytest.mark.parametrize("backend", backends, indirect=True, scope="session")


on_every_topology = on_topologies("valkey", SHORT)


@pytest.fixture
async def watched(store: Store, stubs: Stubs) -> Stubs:
    """Stubs of a service without users whose feed is on."""
    await feed_on(store.url)
    return stubs


def keys_of(store: Store) -> Keys:
    return Keys("userservice", 1 if isinstance(store, Store) else 16)


@on_every_topology
async def test_changes_arrive_in_order_with_the_present_records(watched: Stubs) -> None:
    async with watching(watched, now=True, kinds=[USERS, SESSIONS]) as watch:
        await watched.users.AddUser(AddUserRequest(user_id="ada"))
        await watch.has(1)
        await watched.users.UpdateUser(UpdateUserRequest(user_id="ada", email="a@example.com"))
        await watch.has(2)
        await watched.sessions.AddSession(AddSessionRequest(user_id="ada", session_id="s1"))
        await watch.has(3)
        update = UpdateSessionRequest(user_id="ada", session_id="s1")
        update.metadata["k"] = "v"
        await watched.sessions.UpdateSession(update)
        await watch.has(4)
        await watched.sessions.DeleteSession(DeleteSessionRequest(user_id="ada", session_id="s1"))
        await watch.has(5)
        await watched.sessions.AddSession(AddSessionRequest(user_id="ada", session_id="s2"))
        await watch.has(6)
        await watched.users.DeleteUser(DeleteUserRequest(user_id="ada"))
        changes = await watch.has(7)
    assert list(map(brief, changes)) == [
        ("USER_ADDED", "ada"),
        ("USER_UPDATED", "ada"),
        ("SESSION_ADDED", "s1"),
        ("SESSION_UPDATED", "s1"),
        ("SESSION_DELETED", "s1"),
        ("SESSION_ADDED", "s2"),
        ("USER_DELETED", "ada"),  # one change, which covers the session s2
    ]
    assert changes[1].user.email == "a@example.com"
    assert changes[3].session.metadata["k"] == "v"
    assert (changes[4].user_id, changes[4].id) == ("ada", changes[2].session.id)
    assert (changes[6].user_id, changes[6].id) == ("ada", changes[0].user.id)
    revisions = [change.revision for change in changes]
    assert revisions == sorted(set(revisions))


@on_every_topology
async def test_concurrent_watches_receive_their_own_kinds_views_and_tokens(watched: Stubs) -> None:
    options: list[dict[str, Any]] = [
        {"view": view, "kinds": kinds}
        for view in (VIEW_FULL, VIEW_BASIC, VIEW_ID)
        for kinds in ([USERS], [SESSIONS], [USERS, SESSIONS], [USERS])
    ]
    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(watching(watched, now=True, **each)) for each in options]
        await watched.users.AddUser(AddUserRequest(user_id="ada", email="a@example.com", metadata=struct({"k": 1})))
        await watched.sessions.AddSession(AddSessionRequest(user_id="ada", session_id="s1", metadata=struct({"k": 1})))
        await watched.users.DeleteUser(DeleteUserRequest(user_id="ada"))
        await asyncio.gather(*(watch.until(partial(is_deleted, watch)) for watch in watches))
    for watch, each in zip(watches, options, strict=True):
        for change in watch.changes:
            is_of_session, record = change.HasField("session"), change.session if change.session.id else change.user
            assert not record.id or (SESSIONS if is_of_session else USERS) in each["kinds"]
            assert bool(record.metadata) == (record.id > 0 and each["view"] == VIEW_FULL)
            assert bool(record.uuid) == (record.id > 0 and each["view"] != VIEW_ID)
        token = Token.parse(watch.token)
        assert token is not None
        assert token.kinds == sum(each["kinds"])


def is_deleted(watch: Watching) -> bool:
    return any(brief(change)[0] == "USER_DELETED" for change in watch.changes)


class Writer:
    """Adds, updates and deletes users at random; ``expected`` contains the users that the store should contain."""

    def __init__(self, stubs: Stubs, user_ids: list[str]) -> None:
        self.expected = dict.fromkeys(user_ids, "")
        self._stubs = stubs
        self._choose = random.Random(7)  # noqa: S311

    async def write(self, count: int) -> None:
        user_ids = [*self.expected, *(f"new{number}" for number in range(60))]
        for number in range(count):
            await self._write(self._choose.choice(user_ids), str(number))

    async def _write(self, user_id: str, email: str) -> None:
        if user_id not in self.expected:
            self.expected[user_id] = email
            await self._stubs.users.AddUser(AddUserRequest(user_id=user_id, email=email))
        elif self._choose.random() < 0.4:
            del self.expected[user_id]
            await self._stubs.users.DeleteUser(DeleteUserRequest(user_id=user_id))
        else:
            self.expected[user_id] = email
            await self._stubs.users.UpdateUser(UpdateUserRequest(user_id=user_id, email=email))


def emails(mirror: Mirror) -> dict[str, str]:
    return {user_id: user.email for user_id, user in mirror.users.items()}


@on_topologies("valkey")
async def test_a_mirror_equals_the_store_after_writes_and_cuts(watched: Stubs, service: Service) -> None:
    """A snapshot and its changes, cut and resumed again and again, while users are written."""
    user_ids = [f"old{number}" for number in range(200)]
    await add_users(watched, user_ids)
    writer, mirror, cuts = Writer(watched, user_ids), Mirror(), 0
    async with UserManager(service.address) as manager, asyncio.timeout(60):
        writing = asyncio.create_task(writer.write(200))
        while not (writing.done() and emails(mirror) == writer.expected):
            cuts += 1
            await mirror.follow(manager, cuts % 4 + 1)
        await writing
    assert len(mirror.snapshot) == len(set(mirror.snapshot)) >= 100  # no user twice, across all cuts
    assert cuts >= 3


@on_every_topology
async def test_a_watch_from_now_has_no_gap_after_its_first_message(watched: Stubs) -> None:
    """SpiceDB #2285: changes between the start of a watch and its first read were lost."""
    await watched.users.AddUser(AddUserRequest(user_id="before"))
    for number in range(10):
        async with watching(watched, now=True) as watch:
            await watched.users.AddUser(AddUserRequest(user_id=f"u{number}"))
            await watch.has(1)
            assert brief(watch.changes[0]) == ("USER_ADDED", f"u{number}")


@on_every_topology
async def test_tokens_never_overtake_changes(watched: Stubs) -> None:
    """etcd #15220: a progress notification was sent before the events that it covered.

    A watch that resumes after any message gets exactly the changes of the later messages.
    """
    async with watching(watched, now=True) as watch:
        for number in range(30):
            await watched.users.AddUser(AddUserRequest(user_id=f"u{number}"))
        await watch.has(30)
        await watch.until(lambda: not watch.messages[-1].changes)  # a heartbeat
    messages = watch.messages
    assert len({message.resume_token for message in messages if message.changes}) == sum(
        bool(message.changes) for message in messages
    )  # SpiceDB #2140: the same checkpoint twice
    for number in (0, len(messages) // 2, len(messages) - 1):
        later = sorted(brief(change) for message in messages[number + 1 :] for change in message.changes)
        async with watching(watched, resume_token=messages[number].resume_token) as resumed:
            await resumed.until(lambda: not resumed.messages[-1].changes)
            assert sorted(map(brief, resumed.changes)) == later


async def test_a_lost_feed_expires_tokens_instead_of_leaving_a_gap(watched: Stubs, store: Store) -> None:
    """etcd #20262: progress was reported beyond a compaction whose events were not sent."""
    feed = keys_of(store).all_users()[0].feed
    async with watching(watched, now=True) as watch:
        await watched.users.AddUser(AddUserRequest(user_id="a"))
        await watch.has(1)
        token = watch.token
        with store.client() as client:
            client.delete(feed)
        await watched.users.AddUser(AddUserRequest(user_id="b"))
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await asyncio.wait_for(watch.ended(), 20)
        assert failure_of(ended.value).reason == "WATCH_TOKEN_EXPIRED"
    assert await reason_of(watched, resume_token=token) == "WATCH_TOKEN_EXPIRED"
    async with watching(watched, snapshot=True) as again:
        assert sorted(map(brief, await again.has(2))) == [("USER_EXISTS", "a"), ("USER_EXISTS", "b")]


async def reason_of(stubs: Stubs, **fields: object) -> str:
    watch = Watching(stubs, start(**fields))
    try:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asyncio.wait_for(watch.ended(), 20)
    finally:
        await watch.close()
    assert not watch.messages
    return failure_of(refused.value).reason


async def test_a_rewritten_history_expires_tokens(watched: Stubs, store: Store) -> None:
    """After a crash or failover that lost writes, other entries get the numbers of the lost entries."""
    feed = keys_of(store).all_users()[0].feed
    async with watching(watched, now=True) as watch:
        await watched.users.AddUser(AddUserRequest(user_id="kept"))
        await watch.has(1)
        early = watch.token
        await watched.users.AddUser(AddUserRequest(user_id="lost"))
        await watch.has(2)
        late = watch.token
    with store.client() as client:
        [(entry, _)] = client.xrevrange(feed, "+", "-", count=1)
        client.copy(feed, "kept")
        client.delete(feed)
        for kept, fields in client.xrange("kept")[:-1]:
            client.xadd(feed, fields, id=kept)
        client.delete("kept")
        # The clock of the promoted server is a little slow: the entry with the same number has an earlier time.
        time, _, number = entry.partition(b"-")
        client.xadd(feed, {"c": ""}, id=b"%d-%s" % (int(time) - 1, number))
    await watched.users.AddUser(AddUserRequest(user_id="other"))
    assert await reason_of(watched, resume_token=late) == "WATCH_TOKEN_EXPIRED"
    async with watching(watched, resume_token=early) as resumed:
        assert list(map(brief, await resumed.has(1))) == [("USER_ADDED", "other")]


async def test_a_record_that_was_seen_and_lost_expires_tokens(watched: Stubs, store: Store) -> None:
    """Records are read at delivery: a record before the lost entry can already contain the lost change."""
    async with watching(watched, now=True) as watch:
        before = watch.token
        await watched.users.AddUser(AddUserRequest(user_id="ada"))
        await watch.has(1)
        after_add = watch.token
        await watched.users.UpdateUser(UpdateUserRequest(user_id="ada", email="lost"))
        await watch.has(2)
    first, second, third = (Token.parse(token) for token in (before, after_add, watch.token))
    assert first
    assert second
    assert third
    # The token of a watch that read "ada" after the update: the position is before the update, `seen` is the update.
    seen = second.reached[0]._replace(seen=third.reached[0].position)
    token = Token(second.feed, second.kinds, [seen]).encode()
    async with watching(watched, resume_token=token) as resumed:
        assert list(map(brief, await resumed.has(1))) == [("USER_UPDATED", "ada")]
    lose_last_entry(store)
    assert await reason_of(watched, resume_token=token) == "WATCH_TOKEN_EXPIRED"


async def test_a_snapshot_that_contains_a_lost_change_expires(watched: Stubs, store: Store) -> None:
    """A snapshot can contain a change after its start. If the store loses the change, no later change undoes it."""
    await add_users(watched, ["ada"])
    await add_users(watched, ["bob"])  # after ada, so that the sessions of ada come between them
    await add_large_sessions(watched, "ada", 12)
    async with watching(watched, snapshot=True, kinds=[USERS, SESSIONS]) as watch:
        token = watch.messages[0].resume_token
        assert not watch.messages[0].snapshot_complete
    await watched.users.UpdateUser(UpdateUserRequest(user_id="bob", email="lost"))
    async with watching(watched, resume_token=token, kinds=[USERS, SESSIONS]) as watch:
        await watch.until(lambda: any(change.user.email == "lost" for change in watch.changes))
        [token] = [
            message.resume_token
            for message in watch.messages
            if any(brief(change) == ("USER_EXISTS", "bob") for change in message.changes)
        ]
    lose_last_entry(store)
    assert await reason_of(watched, resume_token=token, kinds=[USERS, SESSIONS]) == "WATCH_TOKEN_EXPIRED"


async def test_a_snapshot_ends_if_a_connection_to_the_store_is_replaced(
    watched: Stubs, store: Store, service: Service
) -> None:
    """Records that were read ahead can come from a server that a failover has replaced meanwhile."""
    request = AddUserRequest()
    request.metadata["text"] = "x" * 60_000
    for number in range(60):
        request.user_id = f"u{number}"
        await watched.users.AddUser(request)
    async with connect(service.address, ("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)) as other:
        call = other.users.WatchUsers(start(snapshot=True))
        first: Any = await call.read()
        with store.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        await added_again(watched, "last")  # the service has replaced the connections
        messages, error = await rest_of(call)
        assert failure_of(error).reason == "STORE_UNAVAILABLE"
        messages.insert(0, first)
    async with watching(watched, resume_token=messages[-1].resume_token) as resumed:
        await resumed.until(lambda: resumed.messages[-1].snapshot_complete)
        messages += resumed.messages
    found = [change.user.user_id for message in messages for change in message.changes]
    assert found[:60] == [f"u{number}" for number in range(60)]


def lose_last_entry(store: Store) -> None:
    """Removes the newest entry of the feed, as a failover does that loses it."""
    feed = keys_of(store).all_users()[0].feed
    with store.client() as client:
        entries = client.xrange(feed)
        client.delete(feed)
        for kept, fields in entries[:-1]:
            client.xadd(feed, fields, id=kept)


async def add_large_sessions(stubs: Stubs, user_id: str, count: int) -> None:
    request = AddSessionRequest(user_id=user_id)
    request.metadata["text"] = "x" * 60_000
    for number in range(count):
        request.session_id = f"s{number}"
        await stubs.sessions.AddSession(request)


@on_every_topology
async def test_tokens_of_another_epoch_store_or_kind_are_rejected(
    watched: Stubs, store: Store, service: Service
) -> None:
    async with watching(watched, now=True) as watch:
        token = watch.token
    assert await reason_of(watched, resume_token=token, kinds=[SESSIONS]) == "INVALID_FIELD"
    assert await reason_of(watched, resume_token=token[:-1]) == "INVALID_FIELD"
    assert await reason_of(watched, resume_token=f"{token[:20]}{'A' if token[20] != 'A' else 'B'}{token[21:]}") == (
        "INVALID_FIELD"
    )
    known = Token.parse(token)
    assert known
    foreign = Token(feed_digest(b"another store", b"epoch"), known.kinds, known.reached)
    more_partitions = Token(known.feed, known.kinds, [*known.reached, known.reached[0]])
    ahead = [reached._replace(position=reached.position._replace(time=2**52)) for reached in known.reached]
    for other in (foreign, more_partitions, Token(known.feed, known.kinds, [Reached.at(each[0]) for each in ahead])):
        assert await reason_of(watched, resume_token=other.encode()) == "WATCH_TOKEN_EXPIRED"
    await feed_off(store.url)
    assert await reason_of(watched, resume_token=token) == "WATCH_DISABLED"
    await feed_on(store.url)
    assert await reason_of(watched, resume_token=token) == "WATCH_TOKEN_EXPIRED"
    async with UserManager(service.address) as manager:
        with pytest.raises(WatchTokenExpiredError):
            await anext(manager.watch(resume_token=token))
        first = await anext(manager.watch(resume_token=token, on_expired="snapshot"))
    assert first.restarted


@on_every_topology
async def test_turning_the_feed_off_ends_watches(watched: Stubs, store: Store) -> None:
    async with watching(watched, now=True) as watch:
        await feed_off(store.url)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await asyncio.wait_for(watch.ended(), 20)
        assert failure_of(ended.value).reason == "WATCH_DISABLED"
    with_findings = check(store.url, "userservice", 5)
    assert with_findings.findings == []


@on_every_topology
async def test_sessions_that_end_are_reported_and_touches_are_not(watched: Stubs) -> None:
    await add_users(watched, ["ada"])
    async with watching(watched, now=True, kinds=[USERS, SESSIONS]) as watch:
        request = AddSessionRequest(user_id="ada", session_id="short")
        request.ttl.FromMilliseconds(300)
        await watched.sessions.AddSession(request)
        request = AddSessionRequest(user_id="ada", session_id="idle")
        request.idle_ttl.FromSeconds(3600)
        await watched.sessions.AddSession(request)
        await watched.sessions.TouchSession(TouchSessionRequest(user_id="ada", session_id="idle"))
        await watched.sessions.AddSession(AddSessionRequest(user_id="ada", session_id="kept"))
        await watch.until(lambda: any(brief(change) == ("SESSION_EXPIRED", "short") for change in watch.changes))
        await watched.sessions.RevokeUserSessions(RevokeUserSessionsRequest(user_id="ada", except_session_id="kept"))
        await watch.until(lambda: any(brief(change) == ("SESSION_DELETED", "idle") for change in watch.changes))
        changes = list(map(brief, watch.changes))
    assert sorted(set(changes)) == [
        ("SESSION_ADDED", "idle"),
        ("SESSION_ADDED", "kept"),
        ("SESSION_ADDED", "short"),
        ("SESSION_DELETED", "idle"),
        ("SESSION_EXPIRED", "short"),
    ]
    assert len(changes) == 5


@on_every_topology
async def test_an_import_adds_one_entry_for_each_changed_user(watched: Stubs, store: Store) -> None:
    await add_users(watched, ["old"])
    async with watching(watched, now=True) as watch:
        options = imports.ImportOptions(import_id=str(uuid4()), on_duplicate=imports.ON_DUPLICATE_SKIP)
        rows = [User(user_id="old"), *(User(user_id=f"u{number}") for number in range(50)), User(user_id="u1")]
        requests = [
            imports.ImportUsersRequest(options=options),
            imports.ImportUsersRequest(batch=imports.ImportBatch(users=rows)),
        ]
        call = watched.users.ImportUsers(iter(requests))
        assert [answer.added async for answer in call][-1] == 50
        changes = await watch.has(50)
        await watch.until(lambda: not watch.messages[-1].changes)
    assert sorted(map(brief, changes)) == sorted(("USER_ADDED", f"u{number}") for number in range(50))
    assert check(store.url, "userservice", 5).findings == []


@on_every_topology
async def test_snapshots_contain_sessions_and_continue_between_them(watched: Stubs) -> None:
    await add_users(watched, ["ada", "bob"])
    await add_large_sessions(watched, "ada", 12)
    found: list[tuple[str, str]] = []
    token, is_changed = "", False
    for _ in range(20):
        fields = {"resume_token": token} if token else {"snapshot": True}
        async with watching(watched, **fields, kinds=[USERS, SESSIONS]) as watch:
            found += map(brief, watch.messages[0].changes)
            token = watch.messages[0].resume_token
            if watch.messages[0].snapshot_complete:
                break
            if not is_changed:  # the first message contains ada, with some of her sessions
                is_changed = True
                await watched.users.UpdateUser(UpdateUserRequest(user_id="ada", email="changed"))
    assert sorted(found) == sorted(
        [("USER_EXISTS", "ada"), ("USER_EXISTS", "bob"), *(("SESSION_EXISTS", f"s{number}") for number in range(12))]
    )
    assert found.index(("USER_EXISTS", "ada")) < found.index(("SESSION_EXISTS", "s0"))
    async with watching(watched, resume_token=token, kinds=[USERS, SESSIONS]) as watch:
        [change] = await watch.has(1)  # the change since the start of the snapshot, and nothing else
    assert (brief(change), change.user.email) == (("USER_UPDATED", "ada"), "changed")


async def test_views_and_invalid_requests(watched: Stubs) -> None:
    async with watching(watched, now=True, view=VIEW_ID) as watch:
        await watched.users.AddUser(AddUserRequest(user_id="ada", email="a@example.com"))
        [change] = await watch.has(1)
    assert (change.user.user_id, change.user.email, change.user.etag) == ("ada", "", "")
    for fields in ({}, {"now": False}, {"snapshot": True, "kinds": [7]}, {"now": True, "heartbeat_seconds": 601}):
        assert await reason_of(watched, **fields) == "INVALID_FIELD"


@pytest.mark.long
async def test_old_entries_are_removed_also_without_writes(watched: Stubs, store: Store) -> None:
    feed = keys_of(store).all_users()[0].feed
    async with watching(watched, now=True) as watch:
        token = watch.token
        await watched.users.AddUser(AddUserRequest(user_id="gone"))
        await watched.users.DeleteUser(DeleteUserRequest(user_id="gone"))
        await watch.until(lambda: any(brief(change) == ("USER_DELETED", "gone") for change in watch.changes))
        # As if an hour had passed: all entries are an hour older.
        with store.client() as client:
            entries = client.xrange(feed)
            client.delete(feed)
            for entry, fields in entries:
                time, _, number = entry.partition(b"-")
                client.xadd(feed, fields, id=b"%d-%s" % (int(time) - 3_600_000_000, number))
            client.hset("userservice:layout", "feed_seconds", 60)
        await asyncio.sleep(0)
        for _ in range(150):
            with store.client() as client:
                if not any(b"gone" in fields[b"c"] for _, fields in client.xrange(feed)):
                    break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("the user_id of a deleted user is still in the feed")
    assert await reason_of(watched, resume_token=token) == "WATCH_TOKEN_EXPIRED"
    await watched.users.AddUser(AddUserRequest(user_id="next"))
    assert check(store.url, "userservice", 5).findings == []


async def test_the_feed_keeps_about_the_number_of_entries_that_is_set(store: Store, stubs: Stubs) -> None:
    await feed_on(store.url, max_entries=200)
    async with watching(stubs, now=True) as watch:
        token = watch.token
        await add_users(stubs, [f"u{number}" for number in range(1000)])
        await watch.has(1000)  # a watch that keeps up loses nothing
        with store.client() as client:
            assert client.xlen(keys_of(store).all_users()[0].feed) < 500
    assert await reason_of(stubs, resume_token=token) == "WATCH_TOKEN_EXPIRED"


async def test_a_watch_that_is_not_read_delays_nobody(watched: Stubs, service: Service) -> None:
    async with connect(service.address, ("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)) as other:
        stalled = other.users.WatchUsers(start(now=True))
        stream = aiter(stalled)
        first = await anext(stream)
        request = AddUserRequest()
        request.metadata["text"] = "x" * 50_000
        async with watching(watched, now=True) as watch:
            for number in range(200):  # 10 MB
                request.user_id = f"u{number}"
                await watched.users.AddUser(request)
            await watch.has(200)
        found = [change async for change in read_until(stream, 200)]
        assert [brief(change)[1] for change in found] == [f"u{number}" for number in range(200)]
        assert first.resume_token
        stalled.cancel()


async def read_until(messages: AsyncIterator[WatchUsersResponse], count: int) -> AsyncIterator[Change]:
    found = 0
    async for message in messages:
        for change in message.changes:
            yield change
            found += 1
        if found >= count:
            return


@pytest.mark.long
async def test_a_shutdown_ends_watches_that_resume_on_another_server(store: Store) -> None:
    await feed_on(store.url)
    with Service(redis_url=store.url) as first, Service(redis_url=store.url) as second:
        async with connect(first.address) as stubs, connect(second.address) as others:
            watch = Watching(stubs, start(now=True, heartbeat_seconds=600))
            await watch.until(lambda: bool(watch.messages))
            assert await asyncio.to_thread(first.stop) == 0
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await watch.ended()
            assert failure_of(ended.value).reason == "SERVER_SHUTTING_DOWN"
            await others.users.AddUser(AddUserRequest(user_id="meanwhile"))
            async with watching(others, resume_token=watch.token) as resumed:
                assert brief((await resumed.has(1))[0]) == ("USER_ADDED", "meanwhile")


@pytest.fixture
def durable() -> Iterator[Store]:
    with Store(append_only=True, options=("--appendfsync", "always")) as made:
        yield made


async def test_tokens_survive_a_restart_of_the_store(durable: Store) -> None:
    with Service(redis_url=durable.url) as service:
        await feed_on(durable.url)
        async with connect(service.address) as stubs, watching(stubs, now=True) as watch:
            await stubs.users.AddUser(AddUserRequest(user_id="before"))
            await watch.has(1)
            await asyncio.to_thread(durable.restart)
            await added_again(stubs, "after")
            changes = await watch.has(2)
            assert list(map(brief, changes)) == [("USER_ADDED", "before"), ("USER_ADDED", "after")]
            async with watching(stubs, resume_token=watch.token) as resumed:
                assert resumed.changes == []


async def added_again(stubs: Stubs, user_id: str) -> None:
    """Adds a user, once the store is available again."""
    request = AddUserRequest(user_id=user_id, request_id=str(uuid4()))
    async with asyncio.timeout(20):
        while True:
            try:
                await stubs.users.AddUser(request)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
            else:
                return


async def test_every_user_that_a_watch_reports_can_be_read(watched: Stubs) -> None:
    async with watching(watched, now=True) as watch:
        await watched.users.AddUser(AddUserRequest(user_id="ada"))
        [change] = await watch.has(1)
        assert (await watched.users.GetUser(GetUserRequest(user_id="ada"))).user == change.user
