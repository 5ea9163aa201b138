"""Request headers up to 16 KiB are always accepted, and larger headers always rejected with an error of the service."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from random import Random

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from harness.connections import Stubs, connect
from harness.failures import Failure, failure_of
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1.user_service_pb2 import GetUserRequest, ListUsersRequest

LIMIT = 16 << 10
CALLS = 60  # a size: of the calls with 8 to 16 kB, grpc's defaults reject 4 to 46 % at random


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Store() as store, Service(redis_url=store.url) as service:
        yield service
        assert service.stop() == 0


@pytest.fixture
async def stubs(service: Service) -> AsyncIterator[Stubs]:
    async with connect(service.address) as connected:
        yield connected


async def failure_with(stubs: Stubs, size: int, request_id: str = "headers") -> Failure | None:
    """Makes a call with a header value of the given size; returns its failure, if any."""
    try:
        await stubs.users.ListUsers(
            ListUsersRequest(limit=1), timeout=10, metadata=(("x-request-id", request_id), ("x-large", "x" * size))
        )
    except grpc.aio.AioRpcError as error:
        return failure_of(error)
    return None


async def size_of_other_headers(stubs: Stubs) -> int:
    """Returns the size of all headers without the value of `x-large`; the error contains the total size."""
    failure = await failure_with(stubs, 2 * LIMIT)
    assert failure
    assert failure.fields == ["headers"], failure
    return int(failure.violations[0][1].rpartition(" is ")[2]) - 2 * LIMIT


async def test_requests_of_each_size_get_one_documented_response(stubs: Stubs) -> None:
    others = await size_of_other_headers(stubs)
    dice = Random(16)  # noqa: S311 - sizes, no secret
    sizes = [1000, 8192, 12_000, LIMIT - others, LIMIT - others + 1, 40_000]
    for size in [*sizes, *(dice.randrange(1000, 40_000) for _ in range(6))]:
        answers: Counter[str] = Counter()
        for _ in range(CALLS):
            failure = await failure_with(stubs, size)
            answers[f"{failure.code} {failure.reason} {failure.fields}" if failure else "OK"] += 1
        expected = "OK" if size + others <= LIMIT else "INVALID_ARGUMENT INVALID_FIELD ['headers']"
        assert answers == {expected: CALLS}, size


async def test_many_small_headers_count_as_one_large_one(stubs: Stubs) -> None:
    many = tuple((f"x-{number}", "x") for number in range(600))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.users.GetUser(GetUserRequest(user_id="ada"), metadata=many)
    assert failure_of(raised.value).fields == ["headers"]


async def test_a_rejection_names_the_limit_and_the_call(service: Service, stubs: Stubs) -> None:
    failure = await failure_with(stubs, LIMIT, request_id="too-large")
    assert failure
    assert "at most 16384 bytes" in failure.message
    assert failure.request_id == "too-large"
    [line] = until(lambda: service.log_lines_with("too-large"))
    assert (line["method"], line["code"]) == ("ListUsers", "INVALID_ARGUMENT")


async def test_grpc_rejects_what_is_larger_than_its_own_limit(stubs: Stubs) -> None:
    """As documented in docs/connections.md: always, without error details and without a log line."""
    for _ in range(3):  # grpc delays each rejection by up to a second
        failure = await failure_with(stubs, 300_000)
        assert failure
        assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "")


async def test_health_accepts_every_request_that_grpc_accepts(stubs: Stubs) -> None:
    health = HealthStub(stubs.channel)
    for size in (12_000, 100_000, 200_000):
        answer = await health.Check(HealthCheckRequest(), metadata=(("x-large", "x" * size),), timeout=10)
        assert answer.status == HealthCheckResponse.SERVING


async def test_a_call_to_an_unknown_method_is_logged(service: Service, stubs: Stubs) -> None:
    for path, logged in (("/userservice.v1.UserService/Rename", None), ("/no.Service/é", "(unprintable)")):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stubs.channel.unary_unary(path)(b"", timeout=10)  # type: ignore[arg-type]
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        [line] = until(lambda logged=logged or path: service.log_lines_with(logged))  # type: ignore[misc]
        assert line["code"] == "UNIMPLEMENTED"


async def test_the_limit_of_a_compressed_request_applies_to_its_content(stubs: Stubs) -> None:
    """A few kB that decompress to 64 MiB are rejected, and ordinary compressed requests are served."""
    for size, code in ((200, "NOT_FOUND"), (2 << 20, "INVALID_ARGUMENT"), (64 << 20, "RESOURCE_EXHAUSTED")):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stubs.users.GetUser(GetUserRequest(user_id="x" * size), compression=grpc.Compression.Gzip, timeout=20)
        assert raised.value.code().name == code, size
