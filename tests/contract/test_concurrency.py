"""Concurrent callers: no write is lost, applied twice or applied in part."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import uuid4

import grpc
import pytest
from google.protobuf.message import Message
from harness.connections import Stubs
from harness.failures import Failure, failure_of
from harness.population import add_users, struct

from userservice.v1.session_service_pb2 import AddSessionRequest, UpdateSessionRequest
from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    GetUserSessionsRequest,
    ListUsersRequest,
    UpdateUserRequest,
)

WRITERS = 16
EACH = 12


async def attempt(call: Awaitable[Message]) -> Message | Failure:
    try:
        return await call
    except grpc.RpcError as error:
        return failure_of(error)


def reasons(outcomes: list[Message | Failure]) -> Counter[str]:
    return Counter(outcome.reason if isinstance(outcome, Failure) else "" for outcome in outcomes)


async def update_until_it_sticks(stubs: Stubs, request: UpdateUserRequest) -> None:
    """Repeats an update until it succeeds. The contract allows UPDATE_CONFLICT, which other tests cover."""
    while True:
        outcome = await attempt(stubs.users.UpdateUser(request, timeout=30))
        if not isinstance(outcome, Failure):
            return
        assert outcome.reason == "UPDATE_CONFLICT", outcome


async def test_concurrent_updates_never_lose_each_others_fields(stubs: Stubs) -> None:
    await add_users(stubs, ["ada"])

    async def write(writer: int) -> None:
        for turn in range(EACH):
            patch = struct({f"w{writer}": turn, f"w{writer}t{turn}": True})
            await update_until_it_sticks(stubs, UpdateUserRequest(user_id="ada", metadata=patch))

    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))

    metadata = dict((await stubs.users.GetUser(GetUserRequest(user_id="ada"))).user.metadata)
    assert metadata == {
        **{f"w{writer}": EACH - 1 for writer in range(WRITERS)},
        **{f"w{writer}t{turn}": True for writer in range(WRITERS) for turn in range(EACH)},
    }


async def test_a_plain_update_and_a_masked_one_both_survive(stubs: Stubs) -> None:
    await add_users(stubs, ["ada"])
    masked = UpdateUserRequest(user_id="ada", first_name="Ada")
    masked.update_mask.paths.append("first_name")

    await asyncio.gather(
        *(update_until_it_sticks(stubs, masked) for _ in range(EACH)),
        *(update_until_it_sticks(stubs, UpdateUserRequest(user_id="ada", email="a@b")) for _ in range(EACH)),
        *(update_until_it_sticks(stubs, UpdateUserRequest(user_id="ada", last_name="King")) for _ in range(EACH)),
    )

    user = (await stubs.users.GetUser(GetUserRequest(user_id="ada"))).user
    assert (user.first_name, user.email, user.last_name) == ("Ada", "a@b", "King")


async def test_concurrent_updates_of_one_session_never_lose_each_others_keys(stubs: Stubs) -> None:
    await add_users(stubs, ["ada"])
    await stubs.sessions.AddSession(AddSessionRequest(user_id="ada", session_id="s"))

    async def write(writer: int) -> None:
        for turn in range(EACH):
            request = UpdateSessionRequest(user_id="ada", session_id="s", metadata=struct({f"w{writer}t{turn}": True}))
            while isinstance(outcome := await attempt(stubs.sessions.UpdateSession(request, timeout=30)), Failure):
                assert outcome.reason == "UPDATE_CONFLICT", outcome

    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))

    [session] = (await stubs.users.GetUserSessions(GetUserSessionsRequest(user_id="ada"))).sessions
    assert len(session.metadata) == WRITERS * EACH


async def test_exactly_one_of_concurrent_adds_of_one_user_succeeds(stubs: Stubs) -> None:
    outcomes = await asyncio.gather(
        *(attempt(stubs.users.AddUser(AddUserRequest(user_id="ada", email=str(n)))) for n in range(WRITERS))
    )

    assert reasons(outcomes) == {"": 1, "USER_ALREADY_EXISTS": WRITERS - 1}
    [winner] = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
    listed = await stubs.users.ListUsers(ListUsersRequest())
    assert list(listed.users) == [winner.user]  # type: ignore[attr-defined]


async def test_exactly_one_of_concurrent_updates_with_one_etag_succeeds(stubs: Stubs) -> None:
    etag = (await add_users(stubs, ["ada"]))["ada"].etag

    outcomes = await asyncio.gather(
        *(
            attempt(stubs.users.UpdateUser(UpdateUserRequest(user_id="ada", email=str(n), etag=etag)))
            for n in range(WRITERS)
        )
    )

    assert reasons(outcomes) == {"": 1, "ETAG_MISMATCH": WRITERS - 1}


async def test_updates_with_allow_missing_always_succeed(stubs: Stubs) -> None:
    """Also if the user is added or deleted between the read and the write of the update."""
    for _ in range(20):
        calls: list[Awaitable[Message]] = []
        for n in range(4):
            request = UpdateUserRequest(user_id="ada", email=str(n), allow_missing=True, request_id=str(uuid4()))
            calls.append(stubs.users.AddUser(AddUserRequest(user_id="ada")))
            calls.append(stubs.users.UpdateUser(request))
            calls.append(stubs.users.DeleteUser(DeleteUserRequest(user_id="ada")))
        outcomes = await asyncio.gather(*map(attempt, calls))
        assert reasons(outcomes[1::3]) == {"": 4}
        assert set(reasons(outcomes)) <= {"", "USER_ALREADY_EXISTS", "USER_NOT_FOUND"}


async def test_exactly_one_of_concurrent_deletes_succeeds(stubs: Stubs) -> None:
    await add_users(stubs, ["ada"])

    outcomes = await asyncio.gather(
        *(attempt(stubs.users.DeleteUser(DeleteUserRequest(user_id="ada"))) for _ in range(WRITERS))
    )

    assert reasons(outcomes) == {"": 1, "USER_NOT_FOUND": WRITERS - 1}


async def test_sessions_added_while_their_user_is_deleted_do_not_outlive_it(stubs: Stubs) -> None:
    for turn in range(10):
        await add_users(stubs, ["ada"])
        sessions = [
            attempt(stubs.sessions.AddSession(AddSessionRequest(user_id="ada", session_id=str(n)))) for n in range(8)
        ]
        deletion = attempt(stubs.users.DeleteUser(DeleteUserRequest(user_id="ada")))
        outcomes = await asyncio.gather(*sessions[:4], deletion, *sessions[4:])
        assert set(reasons(outcomes)) <= {"", "USER_NOT_FOUND"}, turn

        await add_users(stubs, ["ada"])
        left = await stubs.users.GetUserSessions(GetUserSessionsRequest(user_id="ada"))
        assert (list(left.sessions), left.total_size) == ([], 0), turn
        await stubs.users.DeleteUser(DeleteUserRequest(user_id="ada"))


@pytest.mark.parametrize("kind", ["add", "update", "delete"])
async def test_concurrent_repeats_of_one_request_are_applied_once(stubs: Stubs, kind: str) -> None:
    request_id = str(uuid4())
    if kind != "add":
        await add_users(stubs, ["ada"])
    calls: dict[str, Callable[[], Awaitable[Message]]] = {
        "add": lambda: stubs.users.AddUser(AddUserRequest(user_id="ada", request_id=request_id)),
        "update": lambda: stubs.users.UpdateUser(UpdateUserRequest(user_id="ada", email="x", request_id=request_id)),
        "delete": lambda: stubs.users.DeleteUser(DeleteUserRequest(user_id="ada", request_id=request_id)),
    }

    outcomes = await asyncio.gather(*(attempt(calls[kind]()) for _ in range(WRITERS)))

    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
    assert not isinstance(outcomes[0], Failure)
    stored = list((await stubs.users.ListUsers(ListUsersRequest())).users)
    assert stored == ([] if kind == "delete" else [outcomes[0].user])  # type: ignore[attr-defined]


async def test_ids_increase_in_order_of_creation_across_processes(stubs: Stubs) -> None:
    added = await add_users(stubs, [f"u{n}" for n in range(500)])
    assert len({user.id for user in added.values()}) == 500
    assert len({user.uuid for user in added.values()}) == 500

    later = await stubs.users.AddUser(AddUserRequest(user_id="later"))

    assert later.user.id > max(user.id for user in added.values())
    assert later.user.id < 2**53
