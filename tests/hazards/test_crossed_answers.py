"""No caller receives another user's record, neither after cancelled calls nor after wrong replies of the store."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from harness.connections import Stubs, connect
from harness.failures import Failure, failure_of
from harness.population import add_users, struct
from harness.proxies import Proxy
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice import UserManager
from userservice.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest
from userservice.v1.user_service_pb2 import (
    BatchGetUsersRequest,
    DeleteUserRequest,
    GetUserRequest,
    GetUserSessionsRequest,
    UpdateUserRequest,
)

USERS = [f"user{number}" for number in range(50)]
CALLS = 3000
CANCELLED = 0.3


@pytest.fixture
def tampered() -> Iterator[Store]:
    with Store() as store:
        yield store


async def ask(stubs: Stubs, dice: random.Random, outcomes: Counter[str]) -> None:
    """Makes one call, possibly cancels it, and checks that the response belongs to the request."""
    user_id, other = dice.sample(USERS, 2)
    kind = dice.choice(["get", "get", "get", "batch", "session", "sessions"])
    call: Any
    match kind:
        case "get":
            call = stubs.users.GetUser(GetUserRequest(user_id=user_id))
        case "batch":
            call = stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=[user_id, other]))
        case "session":
            call = stubs.sessions.GetSession(GetSessionRequest(user_id=user_id, session_id=user_id))
        case _:
            call = stubs.users.GetUserSessions(GetUserSessionsRequest(user_id=user_id))
    if dice.random() < CANCELLED:
        await asyncio.sleep(dice.uniform(0, 0.02))
        call.cancel()
    try:
        answer = await call
    except asyncio.CancelledError:
        outcomes["cancelled"] += 1
        return
    outcomes["answered"] += 1
    match kind:
        case "get":
            assert (answer.user.user_id, answer.user.email) == (user_id, user_id)
        case "batch":
            assert [user.user_id for user in answer.users] == [user_id, other]
        case "session":
            assert (answer.session.user_id, answer.session.session_id) == (user_id, user_id)
        case _:
            assert [(session.user_id, session.session_id) for session in answer.sessions] == [(user_id, user_id)]


@pytest.mark.long
async def test_cancelled_calls_never_receive_or_shift_replies_of_others() -> None:
    dice = random.Random(20)  # noqa: S311 - a seeded choice of calls, no secret
    outcomes: Counter[str] = Counter()
    with (
        Store() as store,
        Proxy(store.socket, delay=0.01, seed=20) as proxy,
        Service(redis_url=proxy.url) as service,
    ):
        async with connect(service.address) as stubs:
            for user_id in USERS:
                await add_users(stubs, [user_id], email=user_id)
                await stubs.sessions.AddSession(AddSessionRequest(user_id=user_id, session_id=user_id))
            remaining = iter(range(CALLS))

            async def work() -> None:
                for _ in remaining:
                    # An answer that was crossed and held back by the server would be INTERNAL, and raises here.
                    await ask(stubs, dice, outcomes)

            await asyncio.gather(*(work() for _ in range(60)))
        assert await asyncio.to_thread(service.stop) == 0
    assert outcomes.total() == CALLS
    assert outcomes["cancelled"] > CALLS * CANCELLED / 3
    assert outcomes["answered"] > CALLS / 2


async def refused(method: Callable[..., Awaitable[Message]], request: Message) -> Failure:
    """Returns the failure of the call. After an impossible reply, the service opens a new connection to its store."""
    while True:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await method(request, timeout=10)
        found = failure_of(raised.value)
        if found.reason != "STORE_UNAVAILABLE":
            return found
        await asyncio.sleep(0.05)


async def test_a_record_of_another_user_is_never_sent(tampered: Store) -> None:
    with Service(redis_url=tampered.url) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, ["ada", "bob"], email="canary", metadata=struct({"of": "canary"}))
            for user_id in ("ada", "bob"):
                await stubs.sessions.AddSession(AddSessionRequest(user_id=user_id, session_id=f"canary of {user_id}"))
            with tampered.client() as client:
                index = "userservice:{0}:user_ids"
                bobs_id = client.hget(index, "bob")
                client.hset(index, "ada", bobs_id)
            found = [
                await refused(stubs.users.GetUser, GetUserRequest(user_id="ada")),
                await refused(stubs.users.BatchGetUsers, BatchGetUsersRequest(user_ids=["bob", "ada"])),
                await refused(stubs.users.UpdateUser, UpdateUserRequest(user_id="ada", first_name="x")),
            ]
            for one in found:
                assert (one.code, one.reason) == ("INTERNAL", "INTERNAL")
                assert "canary" not in one.message
                assert b"canary" not in one.raw
            async with UserManager(service.address) as manager:
                bob = await manager.get("bob")
            assert (bob.user_id, bob.first_name) == ("bob", "")


async def test_a_session_of_another_user_is_never_sent(tampered: Store) -> None:
    with Service(redis_url=tampered.url) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, ["ada", "bob"])
            for user_id in ("ada", "bob"):
                await stubs.sessions.AddSession(
                    AddSessionRequest(user_id=user_id, session_id="s", metadata=struct({"of": user_id}))
                )
            with tampered.client() as client:
                for key in ("sessions", "session_ids"):
                    client.rename(f"userservice:{{0}}:{key}:bob", f"userservice:{{0}}:{key}:ada")
            found = await refused(stubs.sessions.GetSession, GetSessionRequest(user_id="ada", session_id="s"))
            assert (found.code, found.reason) == ("INTERNAL", "INTERNAL")
            listed = await refused(stubs.users.GetUserSessions, GetUserSessionsRequest(user_id="ada"))
            assert (listed.code, listed.reason) == ("INTERNAL", "INTERNAL")


async def test_the_text_of_an_unexpected_exception_is_not_sent(tampered: Store) -> None:
    """The store returns an unexpected error whose text contains keys and commands."""
    with Service(redis_url=tampered.url) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, ["ada"])
            with tampered.client() as client:
                client.set("userservice:{0}:user_ids", "of the wrong type")
            found = [
                await refused(stubs.users.GetUser, GetUserRequest(user_id="ada")),
                await refused(stubs.users.UpdateUser, UpdateUserRequest(user_id="ada", email="x")),
                await refused(stubs.users.DeleteUser, DeleteUserRequest(user_id="ada")),
                await refused(stubs.users.BatchGetUsers, BatchGetUsersRequest(user_ids=["ada"])),
            ]
            for one in found:
                assert (one.code, one.reason, one.domain) == ("INTERNAL", "INTERNAL", "userservice")
                assert one.request_id
                said = one.message.encode() + one.raw
                for secret in (b"WRONGTYPE", b"EVAL", b"ResponseError", b"user_ids", b"script", b".py", b"Unexpected"):
                    assert secret not in said
            # The log is for the operator: where it happened, under the name that the caller was told.
            named = {one.request_id for one in found}
            await asyncio.to_thread(until, lambda: named <= bugs_in_the_log_of(service))


def bugs_in_the_log_of(service: Service) -> set[str]:
    return {record["request_id"] for record in service.log if record["level"] == "ERROR"}


async def test_a_damaged_record_affects_only_its_own_calls(tampered: Store) -> None:
    with Service(redis_url=tampered.url) as service:
        async with connect(service.address) as stubs:
            users = await add_users(stubs, ["ada", "bob"])
            with tampered.client() as client:
                key, score = "userservice:{0}:users", users["ada"].id
                client.zremrangebyscore(key, score, score)
                client.zadd(key, {b"\xff no record": score})
            found = await refused(stubs.users.GetUser, GetUserRequest(user_id="ada"))
            assert (found.code, found.reason) == ("INTERNAL", "INTERNAL")
            async with UserManager(service.address) as manager:
                assert (await manager.get("bob")).etag == users["bob"].etag
