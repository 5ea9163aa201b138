"""Requests that are far too large are rejected at a small cost and leave no memory behind."""

import asyncio
import time
from collections.abc import Iterator

import grpc
import pytest
from harness import raw
from harness.connections import Stubs, connect
from harness.failures import Failure, failure_of
from harness.population import struct
from harness.services import Service, resident
from harness.stores import Store

from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    BatchGetUsersRequest,
    GetUserRequest,
    ListUsersRequest,
)
from userservice_server.transport.request_sizes import most_bytes

pytestmark = pytest.mark.long

MIB = 1 << 20
IDS = b"\n\0" * 520_000  # a BatchGetUsers of as many empty user_ids
MOST_GROWTH = 48 * MIB


async def rejected(stubs: Stubs, method: str, request: bytes) -> Failure:
    call = raw.unary_unary(stubs.channel, f"/userservice.v1.UserService/{method}")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(request, timeout=30)
    return failure_of(raised.value)


@pytest.fixture(scope="module")
def own_service() -> Iterator[Service]:
    """A service that no other test uses, so that its memory can be measured."""
    with Store() as store, Service(redis_url=store.url) as service:
        yield service


@pytest.mark.parametrize("size", [1 << 20, 500_000], ids=["above the limit", "below the limit"])
async def test_two_hundred_large_batches(own_service: Service, size: int) -> None:
    async with connect(own_service.address) as stubs:
        await rejected(stubs, "BatchGetUsers", IDS[:size])
        before = resident(own_service.pid)

        async def send() -> None:
            for _ in range(100):
                failure = await rejected(stubs, "BatchGetUsers", IDS[:size])
                assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")

        await asyncio.gather(send(), send())
        grown = resident(own_service.pid) - before
        print(f"200 batches of {size} bytes: {grown / MIB:.0f} MiB")  # noqa: T201
        assert grown < MOST_GROWTH


@pytest.mark.long
async def test_five_seconds_of_large_batches() -> None:
    calls = 0
    with Store() as store, Service(redis_url=store.url) as service:
        async with connect(service.address) as stubs:
            await rejected(stubs, "BatchGetUsers", IDS)
            before, end = resident(service.pid), time.monotonic() + 5

            async def send() -> None:
                nonlocal calls
                while time.monotonic() < end:
                    await rejected(stubs, "BatchGetUsers", IDS)
                    calls += 1

            await asyncio.gather(*(send() for _ in range(16)))
            grown = resident(service.pid) - before
            print(f"{calls} batches of {len(IDS)} bytes from 16 callers: {grown / MIB:.0f} MiB")  # noqa: T201
            assert calls > 100
            assert grown < 2 * MOST_GROWTH


@pytest.mark.parametrize("request_type", [GetUserRequest, AddUserRequest, BatchGetUsersRequest, ListUsersRequest])
async def test_the_error_for_a_request_above_its_limit_names_the_limit(stubs: Stubs, request_type: type) -> None:
    limit = most_bytes(request_type.DESCRIPTOR)  # type: ignore[attr-defined]
    method = request_type.__name__.removesuffix("Request")
    failure = await rejected(stubs, method, b"\n" * (limit + 1))
    assert failure.violations == [("request", f"must be at most {limit} bytes encoded, is {limit + 1}")]


async def test_the_error_names_a_field_that_is_too_long(stubs: Stubs) -> None:
    for factor in (1.01, 1.5, 1.99):
        large = struct({"k": "x" * int(65_536 * factor)})
        name = "n" * int(256 * factor)
        failures = [
            await rejected(stubs, "GetUser", GetUserRequest(user_id=name).SerializeToString()),
            await rejected(stubs, "AddUser", AddUserRequest(user_id="a", metadata=large).SerializeToString()),
            await rejected(stubs, "BatchGetUsers", BatchGetUsersRequest(user_ids=[name] * 1000).SerializeToString()),
            await rejected(
                stubs,
                "BatchGetUsers",
                BatchGetUsersRequest(user_ids=["n" * 256] * int(1000 * factor)).SerializeToString(),
            ),
        ]
        assert [failure.fields[0] for failure in failures] == ["user_id", "metadata", "user_ids[0]", "user_ids"]
