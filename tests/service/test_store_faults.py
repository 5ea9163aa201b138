"""The store is unavailable, slow, loading, read-only or full.

Calls report it, no write is applied twice, and the service recovers.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from harness.connections import Stubs, connect, connect_blocking, health
from harness.failures import Failure, failure_of
from harness.population import add_users, names, read_chunks, struct
from harness.services import Service
from harness.stores import BACKENDS, Store, everything
from harness.waiting import until

from userservice import UserManager
from userservice.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
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

SERVICES = ("", "userservice.v1.UserService", "userservice.v1.SessionService")


@pytest.fixture(params=["redis", pytest.param("valkey", marks=pytest.mark.long)])
def durable(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store that keeps its data when it is killed."""
    with Store(request.param, append_only=True, options=["--appendfsync", "always"]) as store:
        yield store


@pytest.fixture
def fragile() -> Iterator[Store]:
    """A store for one test, which can damage it."""
    with Store() as store:
        yield store


async def failure(call: Awaitable[object]) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return failure_of(raised.value)


def assert_unavailable(found: Failure, store: Store) -> None:
    assert (found.code, found.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    assert found.domain == "userservice"
    assert found.retry_after is not None
    assert found.retry_after > 0
    assert found.request_id
    assert_discreet(found, store)


def assert_discreet(found: Failure, store: Store) -> None:
    """Checks that an error contains neither the address of the store nor the text of an exception."""
    said = found.message.encode() + found.raw
    secrets = [str(store.socket), store.socket.name, "Errno", "Error ", "Traceback", "redis.", ".py", "READONLY", "OOM"]
    assert [secret for secret in secrets if secret.encode() in said] == []


def reads(stubs: Stubs) -> list[Awaitable[Any]]:
    """Starts a call of each kind that reads."""
    users, sessions = stubs.users, stubs.sessions
    return [
        users.GetUser(GetUserRequest(user_id="ada"), timeout=20),
        users.ListUsers(ListUsersRequest(), timeout=20),
        users.ListUsersChunked(ListUsersChunkedRequest(), timeout=20).read(),
        users.BatchGetUsers(BatchGetUsersRequest(user_ids=["ada"]), timeout=20),
        users.GetUserSessions(GetUserSessionsRequest(user_id="ada"), timeout=20),
        sessions.GetSession(GetSessionRequest(user_id="ada", session_id="s"), timeout=20),
    ]


def writes(stubs: Stubs) -> list[Awaitable[Any]]:
    """Starts a call of each kind that writes."""
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


@contextlib.asynccontextmanager
async def serving(store: Store, *arguments: str) -> AsyncIterator[tuple[Service, Stubs]]:
    with Service(*arguments, redis_url=store.url) as service:
        async with connect(service.address) as stubs:
            yield service, stubs
        assert await asyncio.to_thread(service.stop) == 0


async def health_is(service: Service, expected: str) -> None:
    """Waits until health reports the given status for every service name."""
    await asyncio.to_thread(until, lambda: [health(service.address, name) for name in SERVICES] == [expected] * 3)


async def test_a_store_that_is_killed_and_comes_back(durable: Store) -> None:
    async with serving(durable) as (service, stubs):
        added = await add_users(stubs, ["ada", "bob"])
        await health_is(service, "SERVING")

        durable.kill()
        for found in await asyncio.gather(*map(failure, [*reads(stubs), *writes(stubs)])):
            assert_unavailable(found, durable)
        await health_is(service, "NOT_SERVING")

        durable.start()
        await health_is(service, "SERVING")
        assert (await stubs.users.GetUser(GetUserRequest(user_id="ada"))).user == added["ada"]
        # Its cache of scripts is empty now.
        assert (await stubs.users.AddUser(AddUserRequest(user_id="new"))).user.id > added["bob"].id
        assert names(await read_chunks(stubs))[-1] == "new"
        assert service.running


async def test_a_manager_does_not_notice_a_restart_of_the_store(durable: Store) -> None:
    async with serving(durable) as (service, _), UserManager(service.address) as manager:
        for number in range(3):
            await manager.add(user_id=f"before{number}")
            durable.restart()
            await manager.add(user_id=f"after{number}")
            assert (await manager.get(f"before{number}")).user_id == f"before{number}"
        assert len(await manager.list()) == 6


async def test_a_store_that_hangs_and_continues(fragile: Store) -> None:
    async with serving(fragile, "--store-timeout", "1") as (service, stubs):
        added = await add_users(stubs, ["ada", *(f"u{number}" for number in range(50))])
        fragile.freeze()
        try:
            started = time.monotonic()
            for found in await asyncio.gather(*map(failure, reads(stubs))):
                assert_unavailable(found, fragile)
            assert time.monotonic() - started < 10, "it waited for the caller's deadline"
            await health_is(service, "NOT_SERVING")
        finally:
            fragile.thaw()
        await health_is(service, "SERVING")
        # The replies of the ended calls arrive now; no other call may receive them.
        answers = await asyncio.gather(*(stubs.users.GetUser(GetUserRequest(user_id=user_id)) for user_id in added))
        assert [answer.user for answer in answers] == list(added.values())


async def test_health_watches_receive_changes(fragile: Store) -> None:
    async with serving(fragile) as (service, stubs):
        await health_is(service, "SERVING")
        watch = HealthStub(stubs.channel).Watch(HealthCheckRequest(service="userservice.v1.UserService"))
        seen = [(await asyncio.wait_for(watch.read(), 30)).status]
        fragile.kill()
        seen.append((await asyncio.wait_for(watch.read(), 30)).status)
        fragile.start()
        seen.append((await asyncio.wait_for(watch.read(), 30)).status)
        watch.cancel()
        assert seen == [HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING, HealthCheckResponse.SERVING]


@pytest.mark.long
async def test_a_store_that_is_loading(durable: Store) -> None:
    async with serving(durable) as (service, stubs):
        added = await add_users(stubs, ["ada"])
        durable.restart_slowly(4)
        await asyncio.to_thread(until, durable.is_loading)
        await health_is(service, "NOT_SERVING")
        assert durable.is_loading()
        for found in await asyncio.gather(*map(failure, [*reads(stubs), *writes(stubs)])):
            assert_unavailable(found, durable)
        await health_is(service, "SERVING")
        assert (await stubs.users.GetUser(GetUserRequest(user_id="ada"))).user == added["ada"]


@pytest.mark.parametrize("backend", sorted(BACKENDS))
async def test_a_store_that_became_a_replica(backend: str) -> None:
    """A failover: reads succeed, and writes are rejected until the service is connected to a primary."""
    with Store(backend) as store:
        async with serving(store) as (_, stubs):
            added = await add_users(stubs, ["ada"])
            with store.client() as client:
                # Of a primary that does not answer, so that it keeps what it has.
                client.execute_command("REPLICAOF", "127.0.0.1", "1")
                for found in await asyncio.gather(*map(failure, writes(stubs))):
                    assert_unavailable(found, store)
                assert (await stubs.users.GetUser(GetUserRequest(user_id="ada"))).user == added["ada"]
                assert names(await read_chunks(stubs)) == ["ada"]
                client.execute_command("REPLICAOF", "NO", "ONE")
            await stubs.users.AddUser(AddUserRequest(user_id="new"))


async def test_a_store_with_too_few_replicas(fragile: Store) -> None:
    async with serving(fragile) as (_, stubs):
        with fragile.client() as client:
            client.config_set("min-replicas-to-write", 1)
            assert_unavailable(await failure(stubs.users.AddUser(AddUserRequest(user_id="ada"))), fragile)
            client.config_set("min-replicas-to-write", 0)
        await stubs.users.AddUser(AddUserRequest(user_id="ada"))


@pytest.mark.parametrize("backend", sorted(BACKENDS))
async def test_a_store_that_is_full(backend: str) -> None:
    with Store(backend, options=["--maxmemory-policy", "noeviction"]) as store:
        async with serving(store) as (_, stubs):
            added = await add_users(stubs, ["ada", "bob"], metadata=struct({"k": "x" * 1000}))
            await stubs.sessions.AddSession(AddSessionRequest(user_id="ada", session_id="s"))
            with store.client() as client:
                before = everything(client)
                client.config_set("maxmemory", 1024)
                growing: list[Awaitable[object]] = [
                    stubs.users.AddUser(
                        AddUserRequest(user_id="new", request_id="0195b2c8-6c3a-7a4e-8f4e-9f1d2c3b4a5b")
                    ),
                    stubs.users.UpdateUser(UpdateUserRequest(user_id="ada", email="x")),
                    stubs.sessions.AddSession(AddSessionRequest(user_id="ada", session_id="t")),
                ]
                for found in await asyncio.gather(*map(failure, growing)):
                    assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "STORE_FULL")
                    assert found.domain == "userservice"
                    assert found.request_id
                    assert_discreet(found, store)
                assert everything(client) == before, "something was half written"
                assert (await stubs.users.GetUser(GetUserRequest(user_id="ada"))).user == added["ada"]

                # Deleting is the way out of it.
                await stubs.users.DeleteUser(DeleteUserRequest(user_id="ada"))
                client.config_set("maxmemory", 0)
            await stubs.users.AddUser(AddUserRequest(user_id="new"))
            assert names(await read_chunks(stubs)) == ["bob", "new"]


async def test_a_store_that_fills_up_under_load_contains_no_partial_users(fragile: Store) -> None:
    """The memory limit is reached during many writes: acknowledged users exist, and rejected users leave no data."""
    acknowledged: set[str] = set()

    async def add(stubs: Stubs, worker: int) -> Failure:
        for number in range(1000):
            user_id = f"u{worker}-{number}"
            try:
                await stubs.users.AddUser(AddUserRequest(user_id=user_id, metadata=struct({"k": "x" * 5000})))
            except grpc.aio.AioRpcError as error:
                return failure_of(error)
            acknowledged.add(user_id)
        raise AssertionError("the store never filled up")

    async with serving(fragile) as (_, stubs):
        with fragile.client() as client:
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 3_000_000)
            found = await asyncio.gather(*(add(stubs, worker) for worker in range(8)))
            assert {one.reason for one in found} == {"STORE_FULL"}
            assert len(acknowledged) > 50
            assert {key.decode() for key in client.hkeys("userservice:{0}:user_ids")} == acknowledged
            assert client.zcard("userservice:{0}:users") == len(acknowledged)
        assert set(names(await read_chunks(stubs))) == acknowledged


@pytest.mark.parametrize("backend", sorted(BACKENDS))
async def test_scripts_missing_in_the_store_are_sent_again(backend: str) -> None:
    with Store(backend) as store:
        async with serving(store) as (_, stubs):
            with store.client() as client:
                for user_id in ("ada", "bob", "eve"):
                    client.script_flush()
                    await stubs.users.AddUser(AddUserRequest(user_id=user_id))
                    client.script_flush()
                    await asyncio.gather(
                        *(stubs.users.GetUser(GetUserRequest(user_id=user_id)) for _ in range(20)),
                        stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=[user_id])),
                    )
                    client.script_flush()
                    await stubs.users.UpdateUser(UpdateUserRequest(user_id=user_id, email="x"))
                client.script_flush()
                await stubs.users.DeleteUser(DeleteUserRequest(user_id="eve"))
            assert names(await read_chunks(stubs)) == ["ada", "bob"]


def test_the_server_ends_a_call_at_the_call_timeout(fragile: Store) -> None:
    """The caller's deadline is longer than the call timeout."""
    arguments = ("--store-timeout", "20", "--call-timeout", "1")
    with Service(*arguments, redis_url=fragile.url) as service, connect_blocking(service.address) as stubs:
        stubs.users.AddUser(AddUserRequest(user_id="ada"))
        fragile.freeze()
        try:
            with pytest.raises(grpc.RpcError) as raised:
                stubs.users.GetUser(GetUserRequest(user_id="ada"), timeout=15)
        finally:
            fragile.thaw()
        found = failure_of(raised.value)
        assert (found.code, found.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        assert stubs.users.GetUser(GetUserRequest(user_id="ada"), timeout=15).user.user_id == "ada"
