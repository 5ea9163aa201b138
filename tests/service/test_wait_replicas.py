"""--wait-replicas: a write is acknowledged only if enough replicas have it."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import grpc
import pytest
from harness.connections import connect, connect_blocking, health
from harness.failures import failure_of
from harness.ports import free_port
from harness.refusals import refusal_of
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1.user_service_pb2 import AddUserRequest, GetUserRequest

STORE_TIMEOUT = 1.0


@pytest.fixture(scope="module", name="pair")
def primary_and_replica() -> Iterator[tuple[Store, Store]]:
    quick = ["--repl-diskless-sync-delay", "0", "--repl-timeout", "60"]
    with Store(port=free_port(), options=quick) as primary:
        replicates = ["--replicaof", "127.0.0.1", str(primary.port)]
        with Store(port=free_port(), options=[*quick, *replicates]) as replica:
            with replica.client() as client:
                until(lambda: client.info("replication")["master_link_status"] == "up")
            yield primary, replica


async def test_a_write_without_a_replica_is_not_acknowledged(pair: tuple[Store, Store]) -> None:
    primary, replica = pair
    arguments = ("--wait-replicas", "1", "--store-timeout", str(STORE_TIMEOUT))
    with Service(*arguments, redis_url=primary.url) as service:
        async with connect(service.address) as stubs:
            await stubs.users.AddUser(AddUserRequest(user_id="ada"))
            with replica.client() as client:
                assert client.zcard("userservice:{0}:users") == 1
            replica.freeze()
            try:
                request = AddUserRequest(user_id="bob", request_id=str(uuid4()))
                for _ in range(2):  # the repetition is a replay, and must not be acknowledged either
                    with pytest.raises(grpc.aio.AioRpcError) as raised:
                        await stubs.users.AddUser(request, timeout=10)
                    assert failure_of(raised.value).reason == "STORE_UNAVAILABLE"
                # Over a new connection, the repetition fails too: WAIT returns at once if the replay writes nothing.
                with primary.client() as client:
                    client.client_kill_filter(_type="normal", skipme=True)
                await asyncio.to_thread(until, lambda: is_read(service))
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await stubs.users.AddUser(request, timeout=10)
                assert failure_of(raised.value).reason == "STORE_UNAVAILABLE"
                assert (await stubs.users.GetUser(GetUserRequest(user_id="ada"))).user.user_id == "ada"
                await asyncio.to_thread(until, lambda: health(service.address) == "NOT_SERVING")
            finally:
                replica.thaw()
            await asyncio.to_thread(until, lambda: health(service.address) == "SERVING")
            assert (await stubs.users.AddUser(request, timeout=10)).user.user_id == "bob"
            with replica.client() as client:
                assert client.zcard("userservice:{0}:users") == 2
        reasons = {line.get("reason") for line in service.log_lines_with("store unavailable")}
        assert "too few replicas confirmed the writes in time" in reasons


async def test_health_follows_the_replicas_even_if_nothing_is_written(pair: tuple[Store, Store]) -> None:
    primary, replica = pair
    with Service("--wait-replicas", "1", "--store-timeout", str(STORE_TIMEOUT), redis_url=primary.url) as service:
        replica.freeze()
        try:
            await asyncio.to_thread(until, lambda: health(service.address) == "NOT_SERVING")
        finally:
            replica.thaw()
        await asyncio.to_thread(until, lambda: health(service.address) == "SERVING")


def is_read(service: Service) -> bool:
    """Returns whether a read succeeds, after the service has noticed that its connections are lost."""
    with connect_blocking(service.address) as stubs:
        try:
            return stubs.users.GetUser(GetUserRequest(user_id="ada")).user.user_id == "ada"
        except grpc.RpcError:
            return False


def test_the_embedded_store_has_no_replicas(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Service("--wait-replicas", "1", data_dir=tmp_path_factory.mktemp("data"), wait=False) as service:
        assert service.wait(30) == 2
        assert service.stderr == [
            "userservice: error: --wait-replicas requires --redis-url: the embedded store has no replicas"
        ]


def test_a_negative_number_is_rejected() -> None:
    assert "--wait-replicas" in refusal_of("--wait-replicas", "-1", redis_url="redis://127.0.0.1:1/0")
