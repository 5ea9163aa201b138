"""The streams, health watches and reflection streams of one caller do not block other callers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from harness.connections import Stubs, connect, health
from harness.failures import Failure, failure_of
from harness.floods import flood
from harness.population import fill, struct
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1.user_service_pb2 import GetUserRequest, ListUsersChunkedRequest, ListUsersChunkedResponse

MAX_CALLS = 16
STREAMS = 8  # half of them
STREAMS_PER_CONNECTION = 2  # a quarter of these
WATCHES, WATCHES_PER_CONNECTION = 1000, 100
REFLECTIONS = 25  # of one connection
HELD_BACK = (("grpc.http2.bdp_probe", 0),)
WATCH = "/grpc.health.v1.Health/Watch"


@pytest.fixture(scope="module")
def large_store() -> Iterator[Store]:
    """A store of 6 MiB, which is more than the buffers of an unread stream."""
    with Store() as store:
        fill(store, (f"u{number}" for number in range(20_000)), metadata=struct({"k": "x" * 200}))
        yield store


@pytest.fixture
def service(large_store: Store) -> Iterator[Service]:
    with Service("--max-calls", str(MAX_CALLS), "--grace", "1", redis_url=large_store.url) as service:
        yield service


@contextlib.asynccontextmanager
async def unread_streams(address: str, number: int) -> AsyncIterator[tuple[Stubs, list[Failure]]]:
    """Opens streams on one connection and reads only their first chunks; yields the failures of rejected streams."""
    failures: list[Failure] = []
    async with connect(address, *HELD_BACK) as stubs:
        streams = [stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=1000)) for _ in range(number)]
        for stream in streams:
            try:
                await stream.read()
            except grpc.aio.AioRpcError as error:
                failures.append(failure_of(error))
        yield stubs, failures
        for stream in streams:
            stream.cancel()


def assert_rejected(failures: list[Failure], number: int, *texts: str) -> None:
    assert len(failures) == number
    for failure in failures:
        assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert failure.retry_after is not None
        assert failure.retry_after >= 0.2
        assert all(text in failure.message for text in texts), failure.message


async def test_unread_streams_of_one_connection_leave_places_for_the_streams_of_others(service: Service) -> None:
    async with unread_streams(service.address, 2 * STREAMS) as (_, failures):
        assert_rejected(failures, 2 * STREAMS - STREAMS_PER_CONNECTION, "streams on this connection", "limit is 2")
        async with unread_streams(service.address, 1) as (_, others):
            assert not others
    lines = until(lambda: [line for line in service.log if line.get("code") == "RESOURCE_EXHAUSTED"])
    assert {line["limit"] for line in lines} == {"streams_per_connection"}


async def test_unread_streams_of_all_connections_leave_places_for_unary_calls(service: Service) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(STREAMS // STREAMS_PER_CONNECTION):
            opened = unread_streams(service.address, STREAMS_PER_CONNECTION)
            stubs, failures = await stack.enter_async_context(opened)
            assert not failures
        async with unread_streams(service.address, 1) as (_, failures):
            assert_rejected(failures, 1, "too many concurrent streams: ", "limit is 8")
        calls = (stubs.users.GetUser(GetUserRequest(user_id="u1"), timeout=10) for _ in range(MAX_CALLS - STREAMS))
        assert len(await asyncio.gather(*calls)) == MAX_CALLS - STREAMS


async def test_streams_that_ended_leave_their_places_to_others_of_their_connection(service: Service) -> None:
    async with connect(service.address, *HELD_BACK) as stubs:
        for ended in range(0, 3 * STREAMS_PER_CONNECTION, STREAMS_PER_CONNECTION):
            await asyncio.to_thread(until, lambda: len(service.log_lines_with("CANCELLED")) == ended)  # noqa: B023
            request = ListUsersChunkedRequest(chunk_size=1000)
            streams = [stubs.users.ListUsersChunked(request) for _ in range(STREAMS_PER_CONNECTION)]
            for stream in streams:
                chunk = await stream.read()
                assert isinstance(chunk, ListUsersChunkedResponse) and chunk.users  # noqa: PT018 - for the type checker
                stream.cancel()


async def asked() -> AsyncIterator[ServerReflectionRequest]:
    """Sends one request and keeps the stream open."""
    yield ServerReflectionRequest(list_services="")
    await asyncio.Event().wait()


async def test_reflection_streams_have_a_limit_of_their_own(service: Service) -> None:
    async with connect(service.address) as one, connect(service.address) as other:
        streams = [ServerReflectionStub(one.channel).ServerReflectionInfo(asked()) for _ in range(REFLECTIONS)]
        for stream in streams:
            assert (await stream.read()).list_services_response.service
        # It sends nothing: grpc.aio can report a stream that is rejected while it sends as INTERNAL.
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ServerReflectionStub(one.channel).ServerReflectionInfo().read()
        assert_rejected(
            [failure_of(raised.value)], 1, "reflection streams on this connection", f"limit is {REFLECTIONS}"
        )
        assert (await one.users.GetUser(GetUserRequest(user_id="u1"), timeout=10)).user.user_id == "u1"
        assert (await ServerReflectionStub(other.channel).ServerReflectionInfo(asked()).read()).list_services_response


async def test_watches_have_a_limit_of_their_own_and_do_not_delay_the_exit(service: Service) -> None:
    connections, per_connection = WATCHES // WATCHES_PER_CONNECTION, WATCHES_PER_CONNECTION + 1
    calls = connections * per_connection
    with flood(service.port, WATCH, HealthCheckRequest(), calls, connections=connections) as watches:
        await asyncio.to_thread(until, lambda: watches.ended == [1] * connections)
        async with connect(service.address) as stubs:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await HealthStub(stubs.channel).Watch(HealthCheckRequest(), timeout=10).read()
            assert_rejected([failure_of(raised.value)], 1, "too many concurrent health watches: ", "limit is 1000")
            assert (await stubs.users.GetUser(GetUserRequest(user_id="u1"), timeout=10)).user.user_id == "u1"
        assert await asyncio.to_thread(health, service.address) == "SERVING"
        expected = {"health_watches", "health_watches_per_connection"}
        await asyncio.to_thread(
            until, lambda: {line["limit"] for line in service.log_lines_with("RESOURCE_EXHAUSTED")} == expected
        )
        assert await asyncio.to_thread(service.stop, within=20) == 0
        assert sum(watches.ended) == calls, "each has received the end of its watch, not only a closed connection"


async def test_a_watch_reports_the_shutdown_and_ends_with_its_reason(service: Service) -> None:
    async with connect(service.address) as stubs:
        watch = HealthStub(stubs.channel).Watch(HealthCheckRequest())
        assert (await watch.read()).status == HealthCheckResponse.SERVING
        assert await asyncio.to_thread(service.stop) == 0
        assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await watch.read()
    assert (failure_of(raised.value).code, failure_of(raised.value).reason) == ("UNAVAILABLE", "SERVER_SHUTTING_DOWN")
