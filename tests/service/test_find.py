"""FindUsers and its e-mail index: every write maintains it, `reindex` builds it, and `check` compares it."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import grpc
import pytest
from harness.commands import command
from harness.connections import Stubs, connect
from harness.failures import failure_of
from harness.population import add_users, fill
from harness.services import Service
from harness.stores import Store
from harness.topologies import SHORT, TOPOLOGIES

from userservice.v1 import user_import_pb2 as imports
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    FindUsersRequest,
    UpdateUserRequest,
)
from userservice.v1.view_pb2 import VIEW_ID
from userservice_server.check import check
from userservice_server.store.email_index import EmailIndex
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.topology.single import SingleServer
from userservice_server.wire.emails import UNICODE_VERSION, email_key, index_member
from userservice_server.wire.records import record_key

LAYOUT, EMAILS, SHARED_EMAILS = "userservice:layout", "userservice:{0}:emails", "userservice:{0}:shared_emails"
SAME = index_member(email_key("same@x"))

on_every_topology = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=[] if name in ("valkey", SHORT) else [pytest.mark.long])
        for name in ("valkey", *TOPOLOGIES)
    ],
    indirect=True,
    scope="session",
)


async def found(stubs: Stubs, *emails: str) -> list[str]:
    page = await stubs.users.FindUsers(FindUsersRequest(emails=emails, view=VIEW_ID))
    assert page.next_cursor == 0
    return [user.user_id for user in page.users]


async def import_users(
    stubs: Stubs, on_duplicate: "imports.OnDuplicate.ValueType", users: Sequence[User], **options: Any
) -> None:
    opening = imports.ImportOptions(import_id=str(uuid4()), on_duplicate=on_duplicate, **options)
    messages = [
        imports.ImportUsersRequest(options=opening),
        imports.ImportUsersRequest(batch=imports.ImportBatch(users=users)),
    ]
    responses = [response async for response in stubs.users.ImportUsers(iter(messages))]
    assert not responses[-1].row_errors


def findings(store: Any) -> list[str]:
    return [finding.what for finding in check(store.url, "userservice", 5).findings]


@on_every_topology
async def test_every_write_changes_the_index(stubs: Stubs, store: Any) -> None:
    await stubs.users.AddUser(AddUserRequest(user_id="ada", email="Ada@Example.com"))
    await stubs.users.AddUser(AddUserRequest(user_id="bob"))
    assert await found(stubs, "ada@example.com", "ADA@EXAMPLE.COM") == ["ada"]
    await stubs.users.UpdateUser(UpdateUserRequest(user_id="bob", email="ada@example.com"))
    assert await found(stubs, "aDa@example.com") == ["ada", "bob"]
    await stubs.users.UpdateUser(UpdateUserRequest(user_id="ada", email="Straße@example.com"))
    assert await found(stubs, "ada@example.com") == ["bob"]
    assert await found(stubs, "STRASSE@example.com", "ada@example.com") == ["ada", "bob"]
    await stubs.users.UpdateUser(UpdateUserRequest(user_id="bob", email=""))
    await stubs.users.UpdateUser(UpdateUserRequest(user_id="cy", email="é@x", allow_missing=True))
    await stubs.users.UpdateUser(UpdateUserRequest(user_id="cy", first_name="Cy"))
    assert await found(stubs, "ada@example.com", "E\u0301@x") == ["cy"]
    users = [User(user_id="ada", email="new@x"), User(user_id="dee", email="dee@x"), User(user_id="eve")]
    await import_users(stubs, imports.ON_DUPLICATE_MERGE, users)
    assert await found(stubs, "strasse@example.com") == []
    assert await found(stubs, "new@x", "dee@x") == ["ada", "dee"]
    await import_users(stubs, imports.ON_DUPLICATE_REPLACE, [User(user_id="ada"), User(user_id="fay", email="FAY@x")])
    await import_users(
        stubs, imports.ON_DUPLICATE_SKIP, [User(user_id="fay", email="other@x"), User(user_id="gil", email="gil@x")]
    )
    assert await found(stubs, "new@x", "dee@x", "fay@x", "gil@x", "other@x") == ["dee", "fay", "gil"]
    await stubs.users.DeleteUser(DeleteUserRequest(user_id="dee"))
    assert await found(stubs, "dee@x") == []
    assert await asyncio.to_thread(findings, store) == []


@on_every_topology
async def test_pages_contain_every_user_once_in_the_order_of_ids(stubs: Stubs) -> None:
    choose = random.Random(3)  # noqa: S311
    emails = [choose.choice(["many@x", "many@x", f"{number}@x"]) for number in range(150)]
    for number, email in enumerate(emails):
        await stubs.users.AddUser(AddUserRequest(user_id=f"u{number}", email=email))
    wanted = {"many@x", *(f"{number}@x" for number in range(0, 150, 2))}
    expected = [f"u{number}" for number, email in enumerate(emails) if email in wanted]
    for limit in (1, 7, 1000):
        request, users = FindUsersRequest(emails=wanted, limit=limit), list[str]()
        while True:
            page = await stubs.users.FindUsers(request)
            assert len(page.users) <= limit
            users += [user.user_id for user in page.users]
            request.cursor = page.next_cursor
            if not page.next_cursor:
                break
        assert users == expected


async def test_1000_addresses_and_more_than_1_mib_of_users(stubs: Stubs) -> None:
    user_ids = [f"u{number}" for number in range(40)]
    added = await add_users(stubs, user_ids, email="same@x", metadata={"k": "x" * 60_000})
    request, users = (
        FindUsersRequest(emails=["same@x", *(f"{number}@x" for number in range(999))], limit=1000),
        list[str](),
    )
    while True:
        page = await stubs.users.FindUsers(request)
        assert page.ByteSize() <= 1 << 20
        users += [user.user_id for user in page.users]
        request.cursor = page.next_cursor
        if not page.next_cursor:
            break
    assert users == [user.user_id for user in sorted(added.values(), key=lambda user: user.id)]


async def test_a_user_with_another_address_is_never_returned(stubs: Stubs, store: Store) -> None:
    """Keys of addresses are not unique, and an index can be damaged."""
    added = (await stubs.users.AddUser(AddUserRequest(user_id="ada", email="ada@x"))).user
    with store.client() as client:
        client.delete(EMAILS)
        client.zadd(EMAILS, {index_member(email_key("bob@x")): added.id, index_member(email_key("eve@x")): 64})
    assert await found(stubs, "bob@x") == []
    assert set(await asyncio.to_thread(findings, store)) == {
        f"row {added.id}: the e-mail index has a wrong entry",
        "e-mail index entry 64: there is no user with this id",
    }
    with store.client() as client:
        client.delete(EMAILS)
    assert await asyncio.to_thread(findings, store) == [f"row {added.id}: the e-mail index has no entry for this user"]


async def rejected(stubs: Stubs) -> str:
    with pytest.raises(grpc.RpcError) as error:
        await found(stubs, "ada@x")
    failure = failure_of(error.value)
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "INDEX_NOT_READY")
    return str(error.value.details())


def write_older_store(store: Store, count: int) -> None:
    """Writes a store of an earlier release: it has layout version 1 and no index."""
    fill(store, [f"u{number}" for number in range(count)], email="Ada@x")
    with store.client() as client, client.pipeline() as together:  # what a service may have created before
        together.hdel(LAYOUT, "email_index", "email_unicode")
        together.hset(LAYOUT, "version", 1)
        together.delete(EMAILS, SHARED_EMAILS)
        together.execute()


@pytest.fixture
async def opened(store: Store) -> AsyncIterator[list[RedisStore]]:
    write_older_store(store, 1000)
    stores = [RedisStore(SingleServer(store.url), key_prefix="userservice", timeout=5) for _ in range(2)]
    for each in stores:
        await each.open()
    yield stores
    for each in stores:
        await each.close()


async def test_an_older_store_gets_the_index_while_users_are_written(
    stubs: Stubs, store: Store, opened: list[RedisStore]
) -> None:
    """Two processes build the index together; one of them is interrupted."""
    assert "does not exist; an operator can build it with userservice reindex" in await rejected(stubs)
    await stubs.users.AddUser(AddUserRequest(user_id="early", email="early@x"))
    choose, written = random.Random(5), 0  # noqa: S311

    async def write() -> None:
        nonlocal written
        while True:
            user_id, email = f"u{choose.randrange(1000)}", choose.choice(["ada@X", "bob@x", ""])
            if choose.random() < 0.2:
                await asyncio.gather(stubs.users.DeleteUser(DeleteUserRequest(user_id=user_id)), return_exceptions=True)
            else:
                await stubs.users.UpdateUser(UpdateUserRequest(user_id=user_id, email=email, allow_missing=True))
            written += 1

    def interrupt(done: int) -> None:
        if done >= 300:
            raise InterruptedError

    writing = asyncio.create_task(write())
    with pytest.raises(InterruptedError):
        await EmailIndex(opened[0]).build(interrupt, pause=0.1)
    assert "is being built" in await rejected(stubs)
    with store.client() as client:
        assert client.hmget(LAYOUT, "version", "email_index") == [b"2", b"filling"]
    progress: list[list[int]] = [[], []]
    builds = [EmailIndex(each).build(own.append, pause=0) for each, own in zip(opened, progress, strict=True)]
    assert any(await asyncio.gather(*builds))
    assert not any(done > 800 for own in progress for done in own), "the work of the first run was repeated"
    writing.cancel()
    assert written > 5
    assert await asyncio.to_thread(findings, store) == []
    assert "early" in await found(stubs, "early@x")
    with store.client() as client:
        assert client.hgetall(LAYOUT).items() >= {b"email_index": b"complete", b"version": b"2"}.items()
        assert not client.hexists(LAYOUT, "email_done")
    assert not await EmailIndex(opened[0]).build(lambda _: None)


async def test_a_user_that_is_changed_while_it_is_indexed(
    stubs: Stubs, opened: list[RedisStore], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The users are changed between the read of a step and its write."""
    read_rows, steps = RedisStore.read_rows, 0

    async def read_and_change(self: RedisStore, table: Any, after: bytes, count: int) -> list[bytes]:
        nonlocal steps
        rows = await read_rows(self, table, after, count)
        user_ids = [record_key(record).decode() for record in rows[:6:2]]
        for user_id, email in zip(user_ids, ["bob@x", "", None], strict=False):
            if email is None:
                await stubs.users.DeleteUser(DeleteUserRequest(user_id=user_id))
            else:
                await stubs.users.UpdateUser(UpdateUserRequest(user_id=user_id, email=email))
        steps += 1
        return rows

    monkeypatch.setattr(RedisStore, "read_rows", read_and_change)
    await EmailIndex(opened[0]).build(lambda _: None, pause=0)
    assert steps >= 10
    assert await asyncio.to_thread(findings, store) == []
    assert len(await found(stubs, "bob@x")) == 10


@pytest.mark.parametrize(
    "left",
    [
        pytest.param({"version": 1}, id="a failover loses the start"),
        pytest.param(
            {"email_index": "filling", "email_unicode": "9.0.0", "email_done": "0"}, id="an older Python begins anew"
        ),
    ],
)
async def test_an_index_that_loses_its_start_is_built_from_the_start(
    opened: list[RedisStore], store: Store, left: dict[str, str | int]
) -> None:
    is_lost = False

    def lose(done: int) -> None:
        nonlocal is_lost
        if done >= 300 and not is_lost:
            is_lost = True
            with store.client() as client:
                client.hdel(LAYOUT, "email_index", "email_unicode", "email_done")
                client.hset(LAYOUT, mapping=left)
                client.delete(EMAILS, SHARED_EMAILS)

    async with asyncio.timeout(30):
        assert await EmailIndex(opened[0]).build(lose, pause=0)
    assert is_lost
    assert await asyncio.to_thread(findings, store) == []
    with store.client() as client:
        assert client.hmget(LAYOUT, "version", "email_index") == [b"2", b"complete"]
        assert (client.zcard(EMAILS), client.zcard(SHARED_EMAILS)) == (1, 1000)


async def test_the_index_of_several_users_of_one_address(stubs: Stubs, store: Store) -> None:
    """The second set contains the users of a shared key, until only one of them is left."""
    user_ids = ["ada", "bob", "cy"]
    for user_id in user_ids:
        await stubs.users.AddUser(AddUserRequest(user_id=user_id, email="same@x"))
    with store.client() as client:
        assert (client.zscore(EMAILS, SAME), client.zcard(SHARED_EMAILS)) == (0, 3)
    assert await found(stubs, "same@x") == user_ids
    await stubs.users.UpdateUser(UpdateUserRequest(user_id="ada", first_name="Ada"))
    await import_users(stubs, imports.ON_DUPLICATE_MERGE, [User(user_id="dee", email="same@x"), User(user_id="bob")])
    assert await found(stubs, "same@x") == [*user_ids, "dee"]
    await stubs.users.DeleteUser(DeleteUserRequest(user_id="bob"))
    await stubs.users.UpdateUser(UpdateUserRequest(user_id="cy", email="new@x"))
    assert await found(stubs, "same@x", "new@x") == ["ada", "cy", "dee"]
    assert await asyncio.to_thread(findings, store) == []
    await import_users(stubs, imports.ON_DUPLICATE_REPLACE, [User(user_id="dee", email="new@x")])
    with store.client() as client:
        assert client.zscore(EMAILS, SAME) >= 64, "only one user is left"
        assert client.zcard(SHARED_EMAILS) == 2
    assert await found(stubs, "same@x", "new@x") == ["ada", "cy", "dee"]
    for user_id in ("ada", "cy", "dee"):
        await stubs.users.DeleteUser(DeleteUserRequest(user_id=user_id))
    with store.client() as client:
        assert not client.exists(EMAILS, SHARED_EMAILS)


async def test_rows_of_one_import_with_one_address(stubs: Stubs, store: Store) -> None:
    await stubs.users.AddUser(AddUserRequest(user_id="ada", email="same@x"))
    await stubs.users.AddUser(AddUserRequest(user_id="bob", email="old@x"))
    users = [User(user_id=f"u{number}", email="new@x" if number % 2 else "same@x") for number in range(6)]
    changed = [User(user_id="ada", email="old@x"), User(user_id="bob", email="new@x")]
    await import_users(stubs, imports.ON_DUPLICATE_REPLACE, [*users[:3], *changed, *users[3:]])
    assert await found(stubs, "old@x") == ["ada"]
    assert await found(stubs, "same@x") == ["u0", "u2", "u4"]
    assert await found(stubs, "new@x") == ["bob", "u1", "u3", "u5"]
    assert await asyncio.to_thread(findings, store) == []


@pytest.mark.parametrize("state", ["ready", "building"])
async def test_an_index_of_an_earlier_form_is_not_used_until_it_is_built_again(
    stubs: Stubs, store: Store, state: str
) -> None:
    """In the earlier form, members are the ids of users, and scores are the keys of their addresses."""
    added = (await stubs.users.AddUser(AddUserRequest(user_id="ada", email="ada@x"))).user
    with store.client() as client:
        client.delete(EMAILS)
        client.zadd(EMAILS, {index_member(added.id): email_key("ada@x")})
        client.hset(LAYOUT, mapping={"email_index": state, "email_done": str(added.id)})
    assert "does not exist; an operator can build it with userservice reindex" in await rejected(stubs)
    await stubs.users.AddUser(AddUserRequest(user_id="bob", email="ada@x"))
    await stubs.users.UpdateUser(UpdateUserRequest(user_id="ada", first_name="Ada"))
    assert await asyncio.to_thread(findings, store) == ["the e-mail index has an earlier form; run userservice reindex"]
    opened = RedisStore(SingleServer(store.url), key_prefix="userservice", timeout=5)
    await opened.open()
    assert await EmailIndex(opened).build(lambda _: None, pause=0)
    await opened.close()
    assert await found(stubs, "ada@x") == ["ada", "bob"]
    assert await asyncio.to_thread(findings, store) == []


@pytest.mark.long
async def test_the_command_builds_the_index_again_for_a_newer_version_of_unicode(stubs: Stubs, store: Store) -> None:
    await stubs.users.AddUser(AddUserRequest(user_id="ada", email="ada@x"))
    with store.client() as client:
        assert client.hmget(LAYOUT, "version", "email_index", "email_unicode") == [
            b"2",
            b"complete",
            UNICODE_VERSION.encode(),
        ]
        client.hset(LAYOUT, "email_unicode", "9.0.0")
        client.zadd(EMAILS, {index_member(1): 64, b"damaged": 128})
    assert "older version of Unicode" in await rejected(stubs)
    done = await asyncio.to_thread(command, "reindex", "--redis-url", store.url)
    assert (done.code, done.out, done.err) == (0, "the e-mail index is complete\n", "")
    assert await found(stubs, "ada@x") == ["ada"]
    assert await asyncio.to_thread(findings, store) == []
    done = await asyncio.to_thread(command, "reindex", "--redis-url", store.url)
    assert done.out == "the e-mail index was complete already\n"
    with store.client() as client:
        client.delete(EMAILS)
    assert (await asyncio.to_thread(command, "reindex", "--again", "--redis-url", store.url)).code == 0
    assert await found(stubs, "ada@x") == ["ada"]
    with store.client() as client:
        client.hset(LAYOUT, mapping={"email_unicode": "99.0.0", "email_index": "filling"})
    done = await asyncio.to_thread(command, "reindex", "--redis-url", store.url)
    assert (done.code, done.out) == (2, "")
    assert "later version of Unicode" in done.err


async def interrupt_start(store: Store) -> None:
    """Runs a `reindex` that fails after it has started the index of the first partition."""
    run_write, runs = RedisStore.run_write, 0

    async def run_once(self: RedisStore, *arguments: Any) -> Any:
        nonlocal runs
        if runs:
            raise InterruptedError
        runs += 1
        return await run_write(self, *arguments)

    opened = RedisStore(SingleServer(store.url), key_prefix="userservice", timeout=5)
    await opened.open()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RedisStore, "run_write", run_once)
        with pytest.raises(InterruptedError):
            await EmailIndex(opened).build(lambda _: None, pause=0)
    await opened.close()


@pytest.mark.long
async def test_the_index_of_several_partitions_is_built() -> None:
    with Store() as store, Service("--partitions", "16", redis_url=store.url) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, [f"u{number}" for number in range(50)], email="ada@x")
            assert len(await found(stubs, "ada@x")) == 50
            with store.client() as client:
                for key in client.scan_iter("userservice:*layout"):
                    client.hdel(key, "email_index", "email_unicode")
                    client.hset(key, "version", 1)
            assert "does not exist" in await rejected(stubs)
            assert any("there is an e-mail index, but" in what for what in await asyncio.to_thread(findings, store))
            await interrupt_start(store)
            assert (await asyncio.to_thread(command, "feed", "off", "--redis-url", store.url)).code == 0
            with store.client() as client:
                assert client.hget(LAYOUT, "version") == b"2", "a partition has an index, which older servers ignore"
            assert (await asyncio.to_thread(command, "reindex", "--redis-url", store.url)).code == 0
            assert len(await found(stubs, "ada@x")) == 50
            with store.client() as client:
                assert client.hget(LAYOUT, "email_index") == b"complete"
                [layout, *_] = client.scan_iter("userservice:{*layout")
                client.hdel(layout, "email_index")
            found_faults = await asyncio.to_thread(findings, store)
            assert "the e-mail index is not complete in all partitions; run userservice reindex again" in found_faults
