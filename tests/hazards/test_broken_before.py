"""Regression tests of faults that were found and fixed."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from harness import raw
from harness.connections import Stubs, connect, connect_blocking
from harness.failures import failure_of
from harness.population import add_users, names, read_chunks
from harness.ports import free_port
from harness.proxies import Proxy
from harness.services import Service
from harness.stores import BACKENDS, Store
from harness.waiting import until

from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    BatchGetUsersRequest,
    DeleteUserRequest,
    GetUserRequest,
    ListUsersRequest,
)
from userservice_server.domain.ports import NO_IDEMPOTENCY_KEY
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.topology.single import SingleServer
from userservice_server.wire.outcomes import Code, Outcome

# Unknown fields, 99 groups deep, in the place of metadata: fine in the request, one level too deep in a list.
_DEEP_GROUPS = b"\xa3\x06" * 90 + b"\xa4\x06" * 90


async def test_a_delete_that_found_no_user_does_not_delete_a_user_added_since(stubs: Stubs, store: Store) -> None:
    """Another caller adds the user between the read of the etag and the script, so the delete must check again."""
    await add_users(stubs, ["late"])
    direct = RedisStore(SingleServer(store.url), key_prefix="userservice", timeout=3)
    try:
        table = direct.tables.users("late")
        outcome = await direct.delete(table, "late", b"", Outcome(Code.NOT_FOUND), NO_IDEMPOTENCY_KEY)
    finally:
        await direct.close()
    assert outcome.code is Code.CONFLICT
    assert (await stubs.users.GetUser(GetUserRequest(user_id="late"))).user.user_id == "late"


async def test_unknown_fields_of_a_struct_are_not_stored(stubs: Stubs) -> None:
    metadata = bytes([5 << 3 | 2, *_varint(len(_DEEP_GROUPS))]) + _DEEP_GROUPS
    request = AddUserRequest(user_id="deep").SerializeToString() + metadata
    add = raw.unary_unary(stubs.channel, "/userservice.v1.UserService/AddUser")
    await add(request)
    users = (await stubs.users.ListUsers(ListUsersRequest(limit=1000))).users
    assert [len(user.metadata.SerializeToString()) for user in users if user.user_id == "deep"] == [0]


def _varint(number: int) -> list[int]:
    return [number & 0x7F | 0x80, number >> 7] if number > 0x7F else [number]


async def test_a_request_that_is_far_too_large_is_rejected_before_decoding(stubs: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=["x" * 2048] * 1000))
    failure = failure_of(raised.value)
    assert (failure.reason, failure.fields) == ("INVALID_FIELD", ["request"])
    assert "534226" in failure.message


async def test_a_replica_without_its_master_is_unavailable() -> None:
    with Store() as store, Service(redis_url=store.url) as service:
        with store.client() as redis:
            redis.config_set("replica-serve-stale-data", "no")
            redis.replicaof("127.0.0.1", 1)
        async with connect(service.address) as stubs:
            for call in (
                stubs.users.GetUser(GetUserRequest(user_id="u")),
                stubs.users.ListUsers(ListUsersRequest()),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await call
                assert failure_of(raised.value).reason == "STORE_UNAVAILABLE"


@pytest.mark.parametrize("query", ["foo=bar", "ssl_cert_reqs=bogus"])
def test_a_url_with_an_unknown_option_is_rejected(query: str) -> None:
    scheme = "rediss" if "ssl" in query else "redis"
    command = [sys.executable, "-m", "userservice", "serve", "--redis-url", f"{scheme}://127.0.0.1:1/0?{query}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("userservice: error: --redis-url")
    assert ended.stderr.count("\n") == 1


async def test_a_signal_to_the_whole_group_ends_the_store_last(tmp_path: Path) -> None:
    """systemd signals the whole group: the store must not end before the service has finished."""
    with Service(data_dir=tmp_path) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, [f"u{n}" for n in range(50)])
            store_pid = service.store_pid
            os.kill(store_pid, signal.SIGTERM)
            await asyncio.sleep(0.3)
            assert len((await read_chunks(stubs))[0].users) == 50
        assert await asyncio.to_thread(service.stop) == 0


async def test_many_waiting_calls_are_not_rejected_without_details(stubs: Stubs) -> None:
    await add_users(stubs, ["busy"])
    calls = [stubs.users.GetUser(GetUserRequest(user_id="busy"), timeout=30) for _ in range(900)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    assert {failure_of(failure).reason for failure in failures} <= {"OVERLOADED"}  # type: ignore[arg-type]


async def test_a_damaged_record_does_not_block_other_records(stubs: Stubs, store: Store) -> None:
    await add_users(stubs, ["ada", "bob"])
    with store.client() as redis:
        redis.hset("userservice:{0}:user_ids", "ada", redis.hget("userservice:{0}:user_ids", "bob"))
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stubs.users.GetUser(GetUserRequest(user_id="ada"))
        assert failure_of(raised.value).reason == "INTERNAL"
        assert (await stubs.users.GetUser(GetUserRequest(user_id="bob"))).user.user_id == "bob"
    await stubs.users.DeleteUser(DeleteUserRequest(user_id="bob"))


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.long)])
@pytest.mark.long
def test_a_service_stopped_while_it_waits_for_the_store_does_not_report_an_address(workers: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Service(
            "--workers", workers, redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0", wait=False
        ) as service,
    ):
        silent.settimeout(20)
        asking, _ = silent.accept()  # and will not be answered
        assert service.stop() == 0
        asking.close()
        assert not service.stdout


def test_fsync_is_rejected_together_with_redis_url() -> None:
    command = [sys.executable, "-m", "userservice", "serve", "--fsync", "always", "--redis-url", "redis://127.0.0.1:1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert "appendfsync" in ended.stderr


async def test_the_stall_timeout_does_not_apply_to_a_slow_store() -> None:
    with (
        Store() as store,
        Proxy(store.socket) as proxy,
        Service("--stall-timeout", "0.1", redis_url=proxy.url) as service,
    ):
        proxy.latency = 0.3
        async with connect(service.address) as stubs:
            await add_users(stubs, ["ada", "bob"])
            assert sorted(names(await read_chunks(stubs, chunk_size=1))) == ["ada", "bob"]


@pytest.mark.long
def test_connecting_and_answering_have_a_store_timeout_each() -> None:
    with Store() as store, Proxy(store.socket) as proxy:
        proxy.latency = 0.6
        with (
            Service("--store-timeout", "1", redis_url=proxy.url) as service,
            connect_blocking(service.address) as stubs,
        ):
            with pytest.raises(grpc.RpcError) as raised:
                stubs.users.GetUser(GetUserRequest(user_id="nobody"), timeout=10)
            assert failure_of(raised.value).reason == "USER_NOT_FOUND"


@pytest.mark.parametrize("backend", sorted(BACKENDS))
async def test_reads_succeed_while_the_disk_of_the_store_is_full(backend: str) -> None:
    """The store then rejects writes and PING (MISCONF)."""
    with Store(backend) as store, Service(redis_url=store.url) as service:
        async with connect(service.address) as stubs:
            added = await add_users(stubs, ["ada"])
            (store.directory / "dump.rdb").mkdir()  # where it wants to write a file
            with store.client() as client:
                client.config_set("save", "3600 1")
                client.bgsave()
                await asyncio.to_thread(until, lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stubs.users.AddUser(AddUserRequest(user_id="bob"))
            assert failure_of(raised.value).reason == "STORE_UNAVAILABLE"
            assert (await stubs.users.GetUser(GetUserRequest(user_id="ada"))).user == added["ada"]
            assert names(await read_chunks(stubs)) == ["ada"]


def test_a_store_too_full_for_the_layout_key_is_rejected() -> None:
    with Store(options=["--maxmemory", "1"]) as store:
        command = [sys.executable, "-m", "userservice", "serve", "--listen", "127.0.0.1:0", "--redis-url", store.url]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert "no memory left" in ended.stderr
    assert ended.stderr.count("\n") == 1


async def test_a_call_that_waits_for_a_connection_is_sent_over_the_connection_that_replaces_it() -> None:
    """The call waits for a connection whose checks hang; connections that are made later pass the checks."""
    with Store(port=free_port()) as store, Proxy(store.port or 0) as proxy:
        direct = RedisStore(SingleServer(proxy.url), key_prefix="userservice", timeout=10)
        try:
            await direct.open()
            table = direct.tables.users("nobody")
            proxy.hold_before = Proxy.once(b"INFO")
            direct.distrust()  # closes the connections; the next command makes a new one
            waiting = asyncio.create_task(direct.get(table, "nobody"))
            await asyncio.to_thread(proxy.held.wait, 5)
            await direct.renew()
            assert (await waiting).code is Code.NOT_FOUND
        finally:
            await direct.close()
