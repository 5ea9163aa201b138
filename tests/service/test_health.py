"""The standard health service, as ordinary clients call it."""

import asyncio

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from harness.connections import Stubs, connect, connect_blocking, health
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.cli.health import main
from userservice.v1.user_service_pb2 import GetUserRequest
from userservice_server.transport.descriptors import HEALTH

READINESS = ("", "userservice.v1.UserService", "userservice.v1.SessionService")


def listed(address: str) -> dict[str, int]:
    """Returns the response of Health/List, which the stubs of the pinned package do not contain."""
    answer_class = GetMessageClass(HEALTH.methods_by_name["List"].output_type)
    with connect_blocking(address) as stubs:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = stubs.channel.unary_unary("/grpc.health.v1.Health/List")
        answer = call(b"", timeout=10)
    statuses = answer_class.FromString(answer).statuses  # type: ignore[attr-defined]
    return {name: response.status for name, response in statuses.items()}


def test_list_returns_the_status_of_every_service(service: Service) -> None:
    assert listed(service.address) == dict.fromkeys((*READINESS, "liveness"), HealthCheckResponse.SERVING)


async def test_watches_and_list_follow_the_store_but_liveness_does_not() -> None:
    with Store() as store, Service("--store-timeout", "0.5", redis_url=store.url) as service:
        async with connect(service.address) as stubs:
            names = (*READINESS, "liveness")
            watches = [HealthStub(stubs.channel).Watch(HealthCheckRequest(service=name)) for name in names]
            assert [(await watch.read()).status for watch in watches] == [HealthCheckResponse.SERVING] * 4
            *readiness, liveness = watches
            store.freeze()
            try:
                for watch in readiness:
                    answer = await asyncio.wait_for(watch.read(), 10)
                    assert answer.status == HealthCheckResponse.NOT_SERVING
                statuses = await asyncio.to_thread(listed, service.address)
                assert statuses == {**dict.fromkeys(READINESS, 2), "liveness": 1}
                assert await asyncio.to_thread(command, service.address) == 5
                assert await asyncio.to_thread(command, service.address, "--service", "liveness") == 0
            finally:
                store.thaw()
            for watch in readiness:
                assert (await asyncio.wait_for(watch.read(), 10)).status == HealthCheckResponse.SERVING
            stopping = asyncio.create_task(asyncio.to_thread(service.stop))
            with pytest.raises(grpc.aio.AioRpcError):  # it ends without another status
                await liveness.read()
            assert await stopping == 0


def command(address: str, *arguments: str) -> int:
    return main(["--address", address, *arguments])


async def test_a_watch_of_an_unknown_service_reports_service_unknown_and_stays_open(service: Service) -> None:
    async with connect(service.address) as stubs:
        watch = HealthStub(stubs.channel).Watch(HealthCheckRequest(service="nothing"))
        assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.read(), 0.2)


def test_only_failed_health_checks_are_logged(service: Service) -> None:
    def check(name: str, call_id: str) -> None:
        request = HealthCheckRequest(service=name)
        HealthStub(stubs.channel).Check(request, timeout=10, metadata=[("x-request-id", call_id)])

    with connect_blocking(service.address) as stubs:
        check("", "good-check")
        with pytest.raises(grpc.RpcError) as raised:
            check("nothing", "bad-check")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    [line] = until(lambda: service.log_lines_with("bad-check"))
    assert (line["method"], line["code"]) == ("Check", "NOT_FOUND")
    assert not service.log_lines_with("good-check")


async def test_health_is_answered_when_no_call_is_admitted() -> None:
    with Store() as store, Service("--max-calls", "1", "--store-timeout", "20", redis_url=store.url) as service:
        async with connect(service.address) as stubs:
            store.freeze()
            try:
                calls = [_called(stubs) for _ in range(2)]
                [rejected], [running] = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                assert rejected.result() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert await asyncio.to_thread(health, service.address) in {"SERVING", "NOT_SERVING"}
                assert len(await asyncio.to_thread(listed, service.address)) == len(READINESS) + 1
                assert not running.done()
            finally:
                store.thaw()
            assert await running is grpc.StatusCode.NOT_FOUND


def _called(stubs: Stubs) -> "asyncio.Task[grpc.StatusCode]":
    async def call() -> grpc.StatusCode:
        return await stubs.users.GetUser(GetUserRequest(user_id="nobody"), timeout=20).code()

    return asyncio.create_task(call())
