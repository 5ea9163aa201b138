"""A faulty service, or a proxy that mixes up responses, must not make a program use a wrong record or hang."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from harness.stand_ins import Refusal, StandIn, once, serve

from userservice import (
    DeadlineExceededError,
    InternalError,
    SessionManager,
    StoreUnavailableError,
    UserManager,
)
from userservice.v1 import session_service_pb2 as session_messages
from userservice.v1 import user_service_pb2 as messages
from userservice.v1.session_pb2 import Session
from userservice.v1.user_pb2 import User

Call = Callable[[UserManager, SessionManager], Awaitable[Any]]

ADA = User(user_id="ada", id=5)
BOB = User(user_id="bob", id=6)
PHONE = Session(user_id="ada", session_id="phone", id=5)


async def all_chunks(users: UserManager, cursor: int = 0) -> list[list[int]]:
    return [[user.id for user in chunk] async for chunk in users.list_chunked(cursor=cursor)]


async def outcome(method: str, response: Message, call: Call) -> Any:
    async with (
        serve(StandIn({method: once(response)})) as address,
        UserManager(address, timeout=5) as users,
        SessionManager(address, timeout=5) as sessions,
    ):
        return await call(users, sessions)


@pytest.mark.parametrize(
    ("method", "response", "call"),
    [
        ("GetUser", messages.GetUserResponse(user=BOB), lambda u, _: u.get("ada")),
        ("ListUsers", messages.ListUsersResponse(users=[ADA, ADA]), lambda u, _: u.list(order_by="id desc")),
        ("ListUsers", messages.ListUsersResponse(users=[ADA, BOB]), lambda u, _: u.list(order_by="id desc")),
        ("ListUsers", messages.ListUsersResponse(users=[BOB]), lambda u, _: u.list(cursor=6, order_by="id desc")),
        (
            "ListUsers",
            messages.ListUsersResponse(users=[BOB, ADA], next_cursor=6),
            lambda u, _: u.list(order_by="id desc"),
        ),
        ("ListUsers", messages.ListUsersResponse(next_cursor=6), lambda u, _: u.list(cursor=6, order_by="id desc")),
        ("GetUser", messages.GetUserResponse(), lambda u, _: u.get("ada")),
        ("AddUser", messages.AddUserResponse(user=BOB), lambda u, _: u.add(user_id="ada")),
        ("UpdateUser", messages.UpdateUserResponse(user=BOB), lambda u, _: u.update(user_id="ada")),
        ("BatchGetUsers", messages.BatchGetUsersResponse(users=[BOB]), lambda u, _: u.batch_get(["ada"])),
        ("BatchGetUsers", messages.BatchGetUsersResponse(users=[BOB, ADA]), lambda u, _: u.batch_get(["ada", "bob"])),
        ("BatchGetUsers", messages.BatchGetUsersResponse(users=[ADA, BOB]), lambda u, _: u.batch_get(["ada"])),
        ("BatchGetUsers", messages.BatchGetUsersResponse(users=[ADA]), lambda u, _: u.batch_get(["ada", "ada"])),
        ("BatchGetUsers", messages.BatchGetUsersResponse(), lambda u, _: u.batch_get(["ada"])),
        (
            "BatchGetUsers",
            messages.BatchGetUsersResponse(users=[ADA], missing_user_ids=["bob"]),
            lambda u, _: u.batch_get(["ada"]),
        ),
        (
            "GetUserSessions",
            messages.GetUserSessionsResponse(sessions=[PHONE]),
            lambda u, _: u.get_sessions("bob"),
        ),
        ("GetUserSessions", messages.GetUserSessionsResponse(sessions=[PHONE]), lambda _, s: s.list("bob")),
        ("GetSession", session_messages.GetSessionResponse(session=PHONE), lambda _, s: s.get("bob", "phone")),
        ("GetSession", session_messages.GetSessionResponse(session=PHONE), lambda _, s: s.get("ada", "tv")),
        (
            "AddSession",
            session_messages.AddSessionResponse(session=PHONE),
            lambda _, s: s.add(user_id="ada", session_id="tv"),
        ),
        (
            "UpdateSession",
            session_messages.UpdateSessionResponse(session=PHONE),
            lambda _, s: s.update(user_id="ada", session_id="tv"),
        ),
    ],
)
async def test_the_record_of_another_user_is_an_internal_error(method: str, response: Message, call: Call) -> None:
    with pytest.raises(InternalError) as raised:
        await outcome(method, response, call)
    assert not any(name in str(raised.value) for name in ("ada", "bob", "phone", "tv"))


def plan_of(*parts: tuple[int, int, int]) -> messages.PlanUserScanResponse:
    names = ("partition", "cursor", "end_cursor")
    return messages.PlanUserScanResponse(
        parts=[messages.UserScanPart(**dict(zip(names, part, strict=True))) for part in parts]
    )


@pytest.mark.parametrize(
    "plan", [plan_of((0, 0, 9)), plan_of((1, 9, 9)), plan_of((1, -1, 9)), plan_of((1, 0, 9), (1, 8, 12))], ids=str
)
async def test_a_plan_whose_parts_cannot_be_read_or_overlap_is_an_internal_error(plan: Message) -> None:
    with pytest.raises(InternalError):
        await outcome("PlanUserScan", plan, lambda u, _: u.plan_user_scan())
    good = plan_of((2, 5, 9), (1, 0, 9), (2, 0, 5))
    assert len(await outcome("PlanUserScan", good, lambda u, _: u.plan_user_scan())) == 3


async def test_a_part_with_a_user_beyond_its_end_is_an_internal_error() -> None:
    """A server of an earlier release ignores parts and returns all users, so several parts would return a user."""

    async def read(users: UserManager, end: int) -> list[int]:
        return [user.id async for chunk in users.list_chunked(parts=[(1, 0, end)]) for user in chunk]

    chunk = messages.ListUsersChunkedResponse(users=[ADA, BOB])
    assert await outcome("ListUsersChunked", chunk, lambda u, _: read(u, 6)) == [5, 6]
    with pytest.raises(InternalError):
        await outcome("ListUsersChunked", chunk, lambda u, _: read(u, 5))


async def test_valid_responses_are_accepted() -> None:
    batch = messages.BatchGetUsersResponse(users=[BOB, ADA, BOB], missing_user_ids=["eve", "eve"])
    users = await outcome("BatchGetUsers", batch, lambda u, _: u.batch_get(["eve", "bob", "ada", "eve", "bob"]))
    assert [user.user_id for user in users] == ["bob", "ada", "bob"]
    assert users.missing_user_ids == ["eve", "eve"]
    page = messages.ListUsersResponse(users=[ADA, BOB], next_cursor=6, total_size=9)
    assert (await outcome("ListUsers", page, lambda u, _: u.list(cursor=4))).next_cursor == 6


@pytest.mark.parametrize(
    "page",
    [
        {"users": [BOB, ADA]},
        {"users": [ADA, ADA]},
        {"users": [User(id=4)]},
        {"users": [ADA], "next_cursor": 4},
        {"users": [], "next_cursor": 4},
        {"users": [], "next_cursor": -1},
        {"users": [ADA], "total_size": -1},
    ],
)
async def test_pages_that_go_back_are_an_internal_error(page: dict[str, Any]) -> None:
    with pytest.raises(InternalError):
        await outcome("ListUsers", messages.ListUsersResponse(**page), lambda u, _: u.list(cursor=4))
    with pytest.raises(InternalError):
        await outcome("ListUsersChunked", messages.ListUsersChunkedResponse(**page), lambda u, _: all_chunks(u, 4))


@pytest.mark.parametrize(
    "page",
    [
        {"sessions": [Session(user_id="ada", id=6), PHONE]},
        {"sessions": [PHONE], "next_cursor": 4},
        {"sessions": [PHONE], "total_size": -1},
        # The second page is the same as the first.
        {"sessions": [PHONE], "next_cursor": 5},
    ],
)
async def test_session_pages_that_go_back_are_an_internal_error(page: dict[str, Any]) -> None:
    response = messages.GetUserSessionsResponse(**page)
    with pytest.raises(InternalError):
        await outcome("GetUserSessions", response, lambda u, _: u.get_sessions("ada"))


async def test_endless_chunks_without_users_reach_the_deadline() -> None:
    async def endless(_: bytes) -> AsyncIterator[Message]:
        for cursor in itertools.count(1):
            yield messages.ListUsersChunkedResponse(next_cursor=cursor)

    stand_in = StandIn({"ListUsersChunked": endless})
    async with serve(stand_in) as address, UserManager(address, timeout=0.5) as users:
        with pytest.raises(DeadlineExceededError):
            await all_chunks(users)
    assert stand_in.calls == 1


async def test_chunks_with_users_extend_the_deadline() -> None:
    async def slow(_: bytes) -> AsyncIterator[Message]:
        for number in range(1, 13):
            await asyncio.sleep(0.2)
            yield messages.ListUsersChunkedResponse(users=[User(id=number)], next_cursor=number)
        yield messages.ListUsersChunkedResponse()

    async with serve(StandIn({"ListUsersChunked": slow})) as address, UserManager(address, timeout=2) as users:
        assert len(await all_chunks(users)) == 12


@pytest.mark.parametrize(("seconds", "nanos"), [(-100, 0), (0, -(10**9)), (0, 0), (-(2**63), -(2**31))])
async def test_a_negative_retry_delay_counts_as_zero(seconds: int, nanos: int) -> None:
    stand_in = StandIn({"GetUser": refuse(seconds, nanos)})
    async with serve(stand_in) as address, UserManager(address, timeout=1) as users:
        with pytest.raises(StoreUnavailableError) as raised:
            await users.get("ada")
    assert raised.value.retry_delay == 0
    # The pauses are random: at most 25, 50, 100 … ms on average. Without them there were 2500 attempts in a second.
    assert 2 <= stand_in.calls <= 50


async def test_the_client_does_not_wait_for_an_absurd_retry_delay() -> None:
    stand_in = StandIn({"GetUser": refuse(2**63 - 1, 2**31 - 1)})
    start = time.monotonic()
    async with serve(stand_in) as address, UserManager(address, timeout=30) as users:
        with pytest.raises(StoreUnavailableError) as raised:
            await users.get("ada")
    assert raised.value.retry_delay == 86400
    assert stand_in.calls == 1
    assert time.monotonic() - start < 15


def refuse(seconds: int, nanos: int) -> Callable[[bytes], AsyncIterator[Message]]:
    async def answer(_: bytes) -> AsyncIterator[Message]:
        raise Refusal(seconds, nanos)
        yield  # type: ignore[unreachable]  # makes this an async generator

    return answer


async def test_times_and_metadata_that_cannot_be_read_are_an_internal_error() -> None:
    late = User(user_id="ada")
    late.created_at.seconds = 2**60
    user = await outcome("GetUser", messages.GetUserResponse(user=late), lambda u, _: u.get("ada"))
    with pytest.raises(InternalError, match="created_at"):
        user.to_dict()


async def nothing(_: bytes) -> AsyncIterator[Message]:
    return
    yield  # makes this an async generator


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("GetUser", lambda u, _: u.get("ada")),
        ("DeleteUser", lambda u, _: u.delete("ada")),
        ("ListUsers", lambda u, _: u.list()),
        ("GetSession", lambda _, s: s.get("ada", "phone")),
    ],
)
async def test_an_ok_without_a_message_is_an_internal_error(method: str, call: Call) -> None:
    async with (
        serve(StandIn({method: nothing})) as address,
        UserManager(address, timeout=5) as users,
        SessionManager(address, timeout=5) as sessions,
    ):
        with pytest.raises(InternalError, match=method):
            await call(users, sessions)


async def test_without_a_cursor_a_list_starts_at_the_beginning() -> None:
    page = messages.ListUsersResponse(users=[ADA, BOB], total_size=2)
    none: Any = None
    assert len(await outcome("ListUsers", page, lambda u, _: u.list(cursor=none, limit=none))) == 2
    sessions = messages.GetUserSessionsResponse(sessions=[PHONE], total_size=1)
    assert len(await outcome("GetUserSessions", sessions, lambda _, s: s.list("ada", cursor=none))) == 1
