"""Limits in bytes: chunks and pages of 1 MiB, and records of the maximum size."""

import asyncio
import itertools
from base64 import b64encode
from urllib.parse import quote

import grpc
import pytest
from harness.connections import Stubs, connect
from harness.failures import failure_of
from harness.population import add_users, names, read_chunks, struct
from harness.services import Service
from harness.stores import Store

from userservice.v1.session_service_pb2 import AddSessionRequest
from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    BatchGetUsersRequest,
    GetUserSessionsRequest,
    ListUsersRequest,
    UpdateUserRequest,
)

MIB = 1 << 20
PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
LARGEST = struct({"k": "x" * 65521})  # 65 536 bytes encoded


def test_the_largest_request_has_its_documented_size() -> None:
    assert LARGEST.ByteSize() == 65536


async def test_a_chunk_closes_where_one_more_user_would_exceed_1_mib(stubs: Stubs) -> None:
    await add_users(stubs, [f"u{n}" for n in range(40)], metadata=LARGEST)

    chunks = await read_chunks(stubs, chunk_size=10_000)

    assert len(set(names(chunks))) == len(names(chunks)) == 40
    assert len(chunks) > 1
    for chunk, following in itertools.pairwise(chunks):
        assert chunk.ByteSize() <= MIB
        assert chunk.ByteSize() + following.users[0].ByteSize() + 8 > MIB, "the chunk closed too early"


async def test_a_page_closes_where_one_more_user_would_exceed_1_mib(stubs: Stubs) -> None:
    await add_users(stubs, [f"u{n}" for n in range(40)], metadata=LARGEST)
    seen: list[str] = []
    cursor = 0
    while True:
        page = await stubs.users.ListUsers(ListUsersRequest(limit=1000, cursor=cursor))
        assert len(page.users) >= 1
        assert page.ByteSize() <= MIB
        assert page.total_size == 40
        seen.extend(user.user_id for user in page.users)
        cursor = page.next_cursor
        if not cursor:
            break
        assert page.ByteSize() + 66_000 > MIB, "the page closed too early"
    assert len(seen) == len(set(seen)) == 40


async def test_a_page_of_sessions_closes_where_one_more_would_exceed_1_mib(stubs: Stubs) -> None:
    await add_users(stubs, ["ada"])
    await asyncio.gather(
        *(
            stubs.sessions.AddSession(AddSessionRequest(user_id="ada", session_id=f"s{n}", metadata=LARGEST))
            for n in range(20)
        )
    )
    first = await stubs.users.GetUserSessions(GetUserSessionsRequest(user_id="ada", limit=1000))
    rest = await stubs.users.GetUserSessions(
        GetUserSessionsRequest(user_id="ada", limit=1000, cursor=first.next_cursor)
    )
    assert first.ByteSize() <= MIB < first.ByteSize() + 66_000
    assert len({session.session_id for page in (first, rest) for session in page.sessions}) == 20
    assert rest.next_cursor == 0


async def test_chunks_of_mixed_sizes_lose_no_users(stubs: Stubs) -> None:
    for size in (10, 65_000, 300, 40_000, 5, 64_000, 20_000):
        await add_users(stubs, [f"{size}/{n}" for n in range(8)], metadata=struct({"k": "x" * size}))
    for chunk_size in (1, 5, 16, 17, 10_000):
        chunks = await read_chunks(stubs, chunk_size=chunk_size)
        assert len(set(names(chunks))) == len(names(chunks)) == 56
        assert all(len(chunk.users) <= chunk_size and chunk.ByteSize() <= MIB for chunk in chunks)


@pytest.mark.long
async def test_a_chunk_size_above_10_000_counts_as_10_000() -> None:
    """On one backend only, because adding many users takes long."""
    with Store() as store, Service(redis_url=store.url) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, [f"u{n}" for n in range(10_050)])
            chunks = await read_chunks(stubs, chunk_size=2**31 - 1)

    assert len(set(names(chunks))) == len(names(chunks)) == 10_050
    assert [len(chunk.users) <= 10_000 and chunk.ByteSize() <= MIB for chunk in chunks] == [True] * len(chunks)
    one_more = max(user.ByteSize() for chunk in chunks for user in chunk.users) + 8
    assert len(chunks[0].users) == 10_000 or chunks[0].ByteSize() + one_more > MIB, "the chunk closed too early"


async def test_every_call_accepts_a_user_of_the_largest_size(stubs: Stubs) -> None:
    fields = {"user_id": "x" * 256, "email": "e" * 320, "first_name": "f" * 256, "last_name": "l" * 256}
    await stubs.users.AddUser(AddUserRequest(**fields, metadata=LARGEST))
    updated = await stubs.users.UpdateUser(UpdateUserRequest(user_id="x" * 256, metadata=LARGEST, email="E" * 320))
    [listed] = (await stubs.users.ListUsers(ListUsersRequest())).users
    [[streamed]] = [chunk.users for chunk in await read_chunks(stubs)]
    [got] = (await stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=["x" * 256]))).users
    assert updated.user == listed == streamed == got
    assert listed.metadata["k"] == "x" * 65521


def size_of_trailers(error: grpc.aio.AioRpcError) -> int:
    """Returns the size of trailers as HTTP/2 counts it; binary values are base64-encoded, as most clients require."""
    trailers = {"grpc-status": "13", "grpc-message": quote(error.details() or "", safe=PRINTABLE)}
    for key, value in error.trailing_metadata() or ():
        trailers[key] = b64encode(value).decode() if isinstance(value, bytes) else value
    return sum(len(key) + len(value) + 32 for key, value in trailers.items())


async def test_the_error_for_a_thousand_invalid_names_is_readable(stubs: Stubs) -> None:
    """Error details are sent in trailers, and many clients accept only 8 KiB of trailers."""
    names_of_control_characters = [f"\x01{n}" for n in range(1000)]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=names_of_control_characters))
    failure = failure_of(raised.value)
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert failure.fields[:3] == ["user_ids[0]", "user_ids[1]", "user_ids[2]"]
    assert size_of_trailers(raised.value) < 8192


@pytest.mark.parametrize("count", [20, 1000])
async def test_the_error_for_the_longest_names_in_every_field_is_readable(stubs: Stubs, count: int) -> None:
    names = ["é" * (250_000 // count)] * count  # a larger request is rejected as a whole
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=names), metadata=(("x-request-id", "i" * 128),))
    failure = failure_of(raised.value)
    assert failure.fields == [f"user_ids[{n}]" for n in range(min(count, 25))]
    assert failure.request_id == "i" * 128
    assert size_of_trailers(raised.value) < 8192
