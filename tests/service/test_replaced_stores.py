"""A store that is emptied, replaced or loses keys while the service runs: every affected call detects it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from harness.connections import Stubs, connect, health
from harness.failures import failure_of
from harness.population import add_users, fill, names, read_chunks
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice import StoreChangedError, UserManager
from userservice.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    RevokeUserSessionsRequest,
    UpdateSessionRequest,
)
from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    BatchGetUsersRequest,
    DeleteUserRequest,
    GetUserRequest,
    GetUserSessionsRequest,
    ListUsersChunkedRequest,
    ListUsersRequest,
    UpdateUserRequest,
)

P = "userservice:{0}:"
LAYOUT = "userservice:layout"
LARGE = "x" * 320  # of an e-mail address
CROWD = [f"u{number}" for number in range(6000)]  # more than a stream reads ahead
UNREAD = ("grpc.http2.bdp_probe", 0)  # the client takes no more than it has to

Change = Callable[[Store], object]


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Store, Service]]:
    with Store() as store, Service(redis_url=store.url) as service:
        yield store, service
        assert service.stop() == 0


@pytest.fixture
def store(shared: tuple[Store, Service]) -> Store:
    shared[0].empty()
    return shared[0]


@pytest.fixture
def service(store: Store, shared: tuple[Store, Service]) -> Service:  # noqa: ARG001 - the store is to be empty
    service = shared[1]
    until(lambda: health(service.address) == "SERVING")
    return service


@pytest.fixture
async def stubs(service: Service) -> AsyncIterator[Stubs]:
    async with connect(service.address, UNREAD) as connected:
        yield connected


def run(*command: str) -> Change:
    def change(store: Store) -> None:
        with store.client() as client:
            client.execute_command(*command)

    return change


def restart(store: Store) -> None:
    store.restart()


def put_another_store(user_ids: list[str]) -> Change:
    def change(store: Store) -> None:
        store.empty()
        fill(store, user_ids, email=LARGE)

    return change


def swap(store: Store) -> None:
    with store.client() as client:
        client.swapdb(0, 1)


def restore_from_another(store: Store) -> None:
    """Restores the same records into another store, which differs only in its store id."""
    with store.client() as client:
        client.set(P + "store_id", "0" * 32)
        client.hset(LAYOUT, "store_id", "0" * 32)


EMPTIED: dict[str, Change] = {
    "emptied": run("FLUSHALL"),
    "restarted without data": restart,
    "swapped with an empty database": swap,
}
REPLACED: dict[str, Change] = {
    "replaced by another store": put_another_store(["other"]),
    "replaced by a store with the same users": put_another_store(CROWD),
    "replaced by a copy with an id of its own": restore_from_another,
}
DAMAGED: dict[str, Change] = {
    "without its id in a partition": run("DEL", P + "store_id"),
    "without its layout": run("DEL", LAYOUT),
    "without its rows": run("DEL", P + "users"),
    "without its index": run("DEL", P + "user_ids"),
    "without its last id": run("DEL", P + "last_id"),
    "with two ids": run("SET", P + "store_id", "0" * 32),
}
HARMLESS_TO_READS = ("without its layout", "without its last id")


async def reason_of(call: Awaitable[object]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return failure_of(error).reason
    return "OK"


def writes(stubs: Stubs) -> list[Awaitable[Any]]:
    users, sessions = stubs.users, stubs.sessions
    return [
        users.AddUser(AddUserRequest(user_id="new"), timeout=20),
        users.UpdateUser(UpdateUserRequest(user_id="ada", email="x"), timeout=20),
        users.DeleteUser(DeleteUserRequest(user_id="ada"), timeout=20),
        sessions.AddSession(AddSessionRequest(user_id="ada", session_id="new"), timeout=20),
        sessions.UpdateSession(UpdateSessionRequest(user_id="ada", session_id="s"), timeout=20),
        sessions.DeleteSession(DeleteSessionRequest(user_id="ada", session_id="s"), timeout=20),
        sessions.RevokeUserSessions(RevokeUserSessionsRequest(user_id="ada"), timeout=20),
    ]


def reads(stubs: Stubs, cursor: int = 0) -> list[Awaitable[Any]]:
    """Starts one call of each kind that reads with several commands."""
    users = stubs.users
    return [
        users.ListUsers(ListUsersRequest(cursor=cursor), timeout=20),
        users.ListUsersChunked(ListUsersChunkedRequest(cursor=cursor), timeout=20).read(),
        users.GetUserSessions(GetUserSessionsRequest(user_id="ada", cursor=cursor), timeout=20),
    ]


async def add_ada(stubs: Stubs) -> int:
    users = await add_users(stubs, ["ada"])
    await stubs.sessions.AddSession(AddSessionRequest(user_id="ada", session_id="s"))
    return users["ada"].id


def messages(service: Service, text: str) -> list[str]:
    return [line["level"] for line in service.log_lines_with(text)]


async def read_on(stubs: Stubs, change: Callable[[], object]) -> tuple[list[str], str]:
    """Reads a stream and resumes it as the managers do; `change` is called after the first chunk.

    Returns:
        The users that were read, and how the stream ended: OK or a reason.
    """
    read: list[str] = []
    cursor = 0
    while True:
        request = ListUsersChunkedRequest(chunk_size=10, cursor=cursor)
        try:
            async for chunk in stubs.users.ListUsersChunked(request, timeout=20):
                if not read:
                    await asyncio.to_thread(change)
                read.extend(user.user_id for user in chunk.users)
                cursor = chunk.next_cursor
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                return read, failure_of(error).reason
            await asyncio.sleep(0.05)
        else:
            return read, "OK"


@pytest.mark.parametrize("name", [*EMPTIED, *REPLACED, *DAMAGED])
async def test_a_stream_never_ends_as_complete_over_another_store(store: Store, stubs: Stubs, name: str) -> None:
    fill(store, CROWD, email=LARGE)
    change = {**EMPTIED, **REPLACED, **DAMAGED}[name]
    read, ended = await read_on(stubs, lambda: change(store))
    assert read == CROWD[: len(read)], "users of another store among them"
    assert ended == ("OK" if name in HARMLESS_TO_READS else "STORE_CHANGED")
    assert (len(read) == len(CROWD)) == (ended == "OK")


async def test_a_manager_raises_and_does_not_resume(store: Store, service: Service) -> None:
    cursor = fill(store, ["ada"])["ada"].id
    store.empty()
    async with UserManager(service.address) as manager:
        await manager.add(user_id="eve")
        with pytest.raises(StoreChangedError) as raised:
            [page async for page in manager.list_chunked(cursor=cursor)]
        assert raised.value.code is grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(StoreChangedError):
            await manager.list(cursor=cursor)


@pytest.mark.parametrize("name", EMPTIED)
async def test_an_emptied_store_becomes_a_new_one(store: Store, service: Service, stubs: Stubs, name: str) -> None:
    cursor = await add_ada(stubs)
    with store.client() as client:
        before = client.get(P + "store_id")
    logged = len(messages(service, "the store was emptied or replaced by an empty store"))
    await asyncio.to_thread(EMPTIED[name], store)
    if name == "restarted without data":  # the connections are lost too
        async with asyncio.timeout(20):
            page = ListUsersRequest(cursor=cursor)
            while "STORE_UNAVAILABLE" in (  # noqa: ASYNC110 - no event
                await reason_of(stubs.users.ListUsers(page)),
                await reason_of(stubs.users.GetUser(GetUserRequest(user_id="ada"))),
            ):
                await asyncio.sleep(0.02)
    # A call with a cursor of the store before, and then calls without one.
    assert set(await asyncio.gather(*map(reason_of, reads(stubs, cursor)))) == {"STORE_CHANGED"}
    assert (await stubs.users.ListUsers(ListUsersRequest())).total_size == 0
    assert names(await read_chunks(stubs)) == []
    batch = await stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=["ada"]))
    assert list(batch.missing_user_ids) == ["ada"]
    assert await reason_of(stubs.users.GetUserSessions(GetUserSessionsRequest(user_id="ada"))) == "USER_NOT_FOUND"
    added = await add_users(stubs, ["eve"])
    assert names(await read_chunks(stubs)) == ["eve"]
    with store.client() as client:
        store_id, layout = client.get(P + "store_id"), client.hgetall(LAYOUT)
    assert store_id not in (None, before)
    assert layout[b"store_id"] == store_id
    assert cursor < int(layout[b"lowest_id"]) <= added["eve"].id
    told = await asyncio.to_thread(
        until, lambda: messages(service, "the store was emptied or replaced by an empty store")[logged:]
    )
    assert set(told) == {"ERROR"}


async def test_a_write_detects_an_emptied_store_first(store: Store, service: Service, stubs: Stubs) -> None:
    """Makes each kind of write right after the store was emptied: it is applied once, to the new store."""
    for number in range(len(writes_of_nobody := ["OK", *["USER_NOT_FOUND"] * 5])):
        await add_ada(stubs)
        store.empty()
        calls = writes(stubs)
        for other in calls[:number] + calls[number + 1 :]:
            other.cancel()  # type: ignore[attr-defined]  # a call of grpc
        assert await reason_of(calls[number]) == writes_of_nobody[number]
        await reason_of(stubs.users.DeleteUser(DeleteUserRequest(user_id="new")))
    assert health(service.address) == "SERVING"


async def test_the_first_stream_over_an_emptied_store_is_empty(store: Store, stubs: Stubs) -> None:
    """A stream that has sent nothing can start again. The test repeats, because health may detect the change first."""
    for _ in range(5):
        await add_ada(stubs)
        store.empty()
        assert names(await read_chunks(stubs)) == []


@pytest.mark.parametrize("name", REPLACED)
async def test_another_complete_store_is_used_and_logged(
    store: Store, service: Service, stubs: Stubs, name: str
) -> None:
    fill(store, CROWD[:10])
    await add_users(stubs, ["ada"])  # looks at the store
    logged = len(messages(service, "the store was replaced by another store"))
    await asyncio.to_thread(REPLACED[name], store)
    await add_users(stubs, ["eve"])
    told = await asyncio.to_thread(until, lambda: messages(service, "the store was replaced by another store")[logged:])
    assert set(told) == {"ERROR"}
    with store.client() as client:
        assert client.hexists(P + "user_ids", "eve")
    assert health(service.address) == "SERVING"


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_damaged_store_rejects_writes(store: Store, service: Service, stubs: Stubs, name: str) -> None:
    await add_ada(stubs)
    with store.client() as client:
        keys = (LAYOUT, P + "store_id", P + "users", P + "user_ids", P + "last_id")
        copies = {key: client.dump(key) for key in keys}
    logged = len(messages(service, "writes are rejected"))
    await asyncio.to_thread(DAMAGED[name], store)
    if name in ("without its rows", "without its index"):  # scripts that write sessions look only at the sessions' own
        found = await asyncio.gather(*map(reason_of, writes(stubs)))
        assert set(found[:3]) == {"STORE_CHANGED"}
        await asyncio.to_thread(until, lambda: health(service.address) == "NOT_SERVING")
    found = await asyncio.gather(*map(reason_of, writes(stubs)))
    # Without the last id, records can still be changed until the next look at the store.
    assert set(found) == {"STORE_CHANGED"} or (found[0] == "STORE_CHANGED" and name == "without its last id")
    if name not in HARMLESS_TO_READS:
        assert set((await asyncio.gather(*map(reason_of, reads(stubs))))[:2]) == {"STORE_CHANGED"}
    await asyncio.to_thread(until, lambda: health(service.address) == "NOT_SERVING")
    told = await asyncio.to_thread(until, lambda: messages(service, "writes are rejected")[logged:])
    assert set(told) == {"ERROR"}
    assert len(told) < len(found), "a line for each call"
    with store.client() as client:
        for key, copy in copies.items():
            client.restore(key, 0, copy, replace=True)
    await asyncio.to_thread(until, lambda: health(service.address) == "SERVING")
    assert await reason_of(stubs.users.AddUser(AddUserRequest(user_id="new2"))) == "OK"


@pytest.mark.parametrize("role", ["sessions", "session_ids"])
async def test_sessions_with_a_missing_key_are_not_created_again(store: Store, stubs: Stubs, role: str) -> None:
    await add_ada(stubs)
    await asyncio.to_thread(run("DEL", f"{P}{role}:ada"), store)
    for call in (
        stubs.sessions.AddSession(AddSessionRequest(user_id="ada", session_id="new")),
        stubs.sessions.UpdateSession(UpdateSessionRequest(user_id="ada", session_id="s")),
        stubs.sessions.DeleteSession(DeleteSessionRequest(user_id="ada", session_id="s")),
    ):
        assert await reason_of(call) == "STORE_CHANGED"
    assert await reason_of(stubs.users.DeleteUser(DeleteUserRequest(user_id="ada"))) == "OK"  # the way out


async def test_queued_writers_of_a_lost_record_get_store_changed(store: Store, service: Service, stubs: Stubs) -> None:
    """Queued writers receive the record from the previous writer and do not read it from the store."""
    await add_ada(stubs)
    await add_users(stubs, ["eve"])  # so that neither key is empty

    async def update() -> str:
        return await reason_of(stubs.users.UpdateUser(UpdateUserRequest(user_id="ada", email="x"), timeout=20))

    updates = [asyncio.ensure_future(update()) for _ in range(300)]
    await asyncio.wait(updates, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.to_thread(run("ZREMRANGEBYRANK", P + "users", "0", "0"), store)
    found = set(await asyncio.gather(*updates))
    assert found <= {"OK", "STORE_CHANGED"}
    assert "STORE_CHANGED" in found
    assert not messages(service, '"internal error"')


async def test_a_batch_reads_from_one_store(store: Store, service: Service, stubs: Stubs) -> None:  # noqa: ARG001 - runs
    """A record that is in the index but not in the rows is an error, and is never reported as a missing user."""
    users = await add_users(stubs, ["ada", "bob"])
    with store.client() as client:
        client.zremrangebyscore(P + "users", users["ada"].id, users["ada"].id)
    assert await reason_of(stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=["bob", "ada"]))) == "STORE_CHANGED"
    assert await reason_of(stubs.users.GetUser(GetUserRequest(user_id="ada"))) == "STORE_CHANGED"


async def test_a_cursor_of_a_replaced_store_is_rejected_by_an_older_store(store: Store, stubs: Stubs) -> None:
    await add_users(stubs, ["old"])
    with store.client() as client:
        old = {key: client.dump(key) for key in client.scan_iter()}
    store.empty()
    younger = (await add_users(stubs, ["ada", "bob"]))["ada"].id
    with store.client() as client, client.pipeline() as together:
        together.flushall()
        for key, dumped in old.items():
            together.restore(key, 0, dumped)
        together.execute()
    newest = (await add_users(stubs, ["eve"]))["eve"].id
    assert await asyncio.gather(*map(reason_of, reads(stubs, younger))) == ["STORE_CHANGED"] * 3
    assert names(await read_chunks(stubs, cursor=newest)) == []
    own = (await stubs.users.GetUser(GetUserRequest(user_id="old"))).user.id
    assert names(await read_chunks(stubs, cursor=own)) == ["eve"]


async def test_a_replica_that_is_promoted_is_the_same_store(store: Store, stubs: Stubs) -> None:
    def promote() -> None:
        with store.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            client.execute_command("REPLICAOF", "NO", "ONE")

    fill(store, CROWD, email=LARGE)
    assert await read_on(stubs, promote) == (CROWD, "OK")


async def test_servers_agree_on_one_new_store() -> None:
    """Servers or workers that detect an empty store concurrently create one store, which all of them use."""
    with Store() as store, Service(redis_url=store.url) as one, Service(redis_url=store.url) as two:
        async with connect(one.address) as first, connect(two.address) as second:
            for number in range(5):
                store.empty()
                added = await asyncio.gather(
                    *(add_users(stubs, [f"{number}-{at}"]) for at, stubs in enumerate((first, second)))
                )
                expected = sorted(name for users in added for name in users)
                for stubs in (first, second):
                    assert sorted(names(await read_chunks(stubs))) == expected


def test_a_store_without_a_layout_is_rejected_at_the_start(store: Store) -> None:
    store.empty()
    with store.client() as client:
        client.hset("other:{0}:user_ids", "ada", 64)
        client.zadd("other:{0}:users", {"record": 64})
        with Service("--key-prefix", "other", redis_url=store.url, wait=False) as service:
            assert service.wait(30) == 2
            assert len(service.stderr) == 1
            assert "contains data but no layout" in service.stderr[0]
        assert not client.exists("other:layout", "other:{0}:store_id"), "something was written"
