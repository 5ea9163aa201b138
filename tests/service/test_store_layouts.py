"""Stores of earlier releases can be opened, are upgraded in place, and keep all data."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from harness.stores import Store

from userservice.v1.session_pb2 import Session
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import GetUserSessionsResponse, ListUsersResponse
from userservice_server.check import check
from userservice_server.domain.ports import NO_IDEMPOTENCY_KEY
from userservice_server.domain.sessions import Sessions
from userservice_server.domain.stream_memory import ReadLimit
from userservice_server.domain.users import Users
from userservice_server.errors import StoreChangedError
from userservice_server.store import sizes
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.topology.single import SingleServer
from userservice_server.wire.records import record_id

FIXTURES = Path(__file__).parents[1] / "fixtures" / "stores"
P = "userservice:{0}:"


def load(store: Store, name: str) -> dict[str, Any]:
    """Loads the append-only file of a fixture into an empty store; returns its records."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(store.socket))
        connection.sendall((FIXTURES / f"{name}.aof").read_bytes() + b"ECHO done\r\n")
        read = b""
        while b"$4\r\ndone\r\n" not in read:
            more = connection.recv(65536)
            assert more, read[-200:]
            read += more
    assert b"\r\n-" not in read
    content: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    return content


async def content(store: RedisStore) -> dict[str, Any]:
    users = ListUsersResponse.FromString(await Users(store, ReadLimit()).list(1000, 0)).users
    sessions = {
        user.user_id: GetUserSessionsResponse.FromString(
            await Sessions(store, ReadLimit()).list(user.user_id, 1000, 0)
        ).sessions
        for user in users
    }
    return {
        "users": {user.user_id: [user.id, user.etag, user.first_name] for user in users},
        "sessions": {
            name: [[session.session_id, session.id, session.etag] for session in of_user]
            for name, of_user in sessions.items()
        },
    }


@pytest.fixture
def backing() -> Any:
    with Store() as store:
        yield store


@pytest.fixture
async def opened(backing: Store) -> AsyncIterator[list[RedisStore]]:
    """Three servers of one store that have not opened it yet."""
    stores = [RedisStore(SingleServer(backing.url), key_prefix="userservice", timeout=5) for _ in range(3)]
    yield stores
    for store in stores:
        await store.close()


async def test_a_store_of_layout_1_without_an_id_gets_one(backing: Store, opened: list[RedisStore]) -> None:
    expected = load(backing, "layout-1")
    with backing.client() as client:
        assert client.hgetall("userservice:layout") == {b"version": b"1", b"partitions": b"1"}
        await asyncio.gather(*(store.open() for store in opened))
        layout, store_id = client.hgetall("userservice:layout"), client.get(P + "store_id")
    assert layout == {b"version": b"1", b"partitions": b"1", b"store_id": store_id}
    assert {store.identity.store_id for store in opened} == {store_id}
    for store in opened:
        assert await content(store) == expected
    newest = max(values[0] for values in expected["users"].values())
    # Every cursor that the store gave out before is still one of its own.
    assert not ListUsersResponse.FromString(await Users(opened[0], ReadLimit()).list(10, newest)).users
    assert ListUsersResponse.FromString(await Users(opened[0], ReadLimit()).list(10, newest - 64)).users
    assert record_id(await Users(opened[1], ReadLimit()).add("new", User(), NO_IDEMPOTENCY_KEY)) > newest
    assert check(backing.url, "userservice", 5).findings == []


@pytest.mark.parametrize("lost", ["last_id", "users"])
async def test_a_store_of_layout_1_that_is_full_or_lacks_a_key(
    backing: Store, opened: list[RedisStore], lost: str
) -> None:
    """A store without users has no keys of users, and a missing last id is restored from the newest row."""
    load(backing, "layout-1")
    with backing.client() as client:
        client.delete(P + lost, *([P + "user_ids"] if lost == "users" else []))
        client.config_set("maxmemory", 1)
        await opened[0].open()
        client.config_set("maxmemory", 0)
        assert client.exists(P + "last_id", P + "store_id") == 2
    await Users(opened[0], ReadLimit()).add("new", User(), NO_IDEMPOTENCY_KEY)
    assert check(backing.url, "userservice", 5).findings == [] or lost == "users"  # sessions without a user remain


async def test_a_store_without_an_id_that_replaces_a_running_store_is_rejected(
    backing: Store, opened: list[RedisStore]
) -> None:
    """The store is in the state in which an older server leaves it that writes after the store was emptied."""
    server, restarted, _ = opened
    await server.open()
    backing.empty()
    load(backing, "layout-1")
    with pytest.raises(StoreChangedError):
        await Users(server, ReadLimit()).add("new", User(), NO_IDEMPOTENCY_KEY)
    await restarted.open()
    await Users(restarted, ReadLimit()).add("new", User(), NO_IDEMPOTENCY_KEY)
    await Users(server, ReadLimit()).add("newer", User(), NO_IDEMPOTENCY_KEY)


async def test_several_servers_count_the_sessions_of_an_older_store_once(
    backing: Store, opened: list[RedisStore]
) -> None:
    expected = sum(map(len, load(backing, "layout-1")["sessions"].values()))
    for server in opened:
        await server.open()
    assert (await opened[0].sizes()).sessions is None
    for _ in range(3):  # steps: users, the end, nothing
        await asyncio.gather(*(server.count_more_sessions() for server in opened))
    assert not any([await server.count_more_sessions() for server in opened])
    assert (await opened[0].sizes()).sessions == expected > 0
    assert check(backing.url, "userservice", 5).findings == []


async def test_sessions_are_counted_once_while_they_change(
    backing: Store, opened: list[RedisStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "_USERS_PER_STEP", 1)
    load(backing, "layout-1")
    server, other, _ = opened
    await server.open()
    await other.open()
    users, sessions = Users(other, ReadLimit()), Sessions(other, ReadLimit())
    present = [user.user_id for user in ListUsersResponse.FromString(await users.list(1000, 0)).users]
    for user_id in present:
        for session_id in ("x", "y"):
            await sessions.add(session_id, Session(user_id=user_id), NO_IDEMPOTENCY_KEY)
    for counted in range(len(present) + 1):
        for user_id in present:  # of counted users and of users that are not counted yet
            await sessions.add(f"after {counted}", Session(user_id=user_id), NO_IDEMPOTENCY_KEY)
        await sessions.delete(present[0], f"after {counted}", "", NO_IDEMPOTENCY_KEY)
        if counted == 2:
            for gone in (present.pop(0), present.pop()):
                await users.delete(gone, "", NO_IDEMPOTENCY_KEY)
                await users.add(gone, User(), NO_IDEMPOTENCY_KEY)  # now the newest user
        await server.count_more_sessions()
    while await server.count_more_sessions():
        pass
    with backing.client() as client:
        expected = sum(client.zcard(key) for key in client.scan_iter(P + "sessions:*"))
    assert (await server.sizes()).sessions == expected > 0
    assert check(backing.url, "userservice", 5).findings == []
