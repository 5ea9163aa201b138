"""Calls that are cancelled at any moment, and unexpected replies: no caller receives the reply of another call."""

import asyncio
import random
from collections import Counter
from itertools import repeat
from typing import Any

import grpc
import pytest
from harness.connections import Stubs, connect
from harness.failures import failure_of
from harness.population import add_users
from harness.proxies import Proxy
from harness.services import InstrumentedService, Service
from harness.sizing import sized
from harness.stores import Store
from harness.waiting import until

from userservice.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest
from userservice.v1.user_service_pb2 import BatchGetUsersRequest, GetUserRequest, GetUserSessionsRequest
from userservice.v1.user_service_pb2 import UpdateUserRequest as Update

USERS = [f"user{number}" for number in range(50)]
CALLERS = 60
DELAY = 0.008
CANCELLED = 0.3
FEWEST_DOUBLED = 3  # below that a run shows nothing, and goes on


async def ask(stubs: Stubs, user_id: str, other: str, kind: str, cancel_after: float | None) -> str:
    """Makes a call and checks that the response belongs to the request."""
    call: grpc.aio.UnaryUnaryCall[Any, Any]
    match kind:
        case "get":
            call = stubs.users.GetUser(GetUserRequest(user_id=user_id), timeout=30)
        case "update":
            call = stubs.users.UpdateUser(Update(user_id=user_id, last_name=user_id), timeout=30)
        case "batch":
            call = stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=[user_id, other]), timeout=30)
        case "nobody":
            call = stubs.users.GetUser(GetUserRequest(user_id=f"nobody{user_id}"), timeout=30)
        case "session":
            call = stubs.sessions.GetSession(GetSessionRequest(user_id=user_id, session_id=user_id), timeout=30)
        case _:
            call = stubs.users.GetUserSessions(GetUserSessionsRequest(user_id=user_id), timeout=30)
    if cancel_after is not None:
        await asyncio.sleep(cancel_after)
        call.cancel()
    try:
        answer = await call
    except asyncio.CancelledError:
        return "cancelled"
    except grpc.aio.AioRpcError as error:
        reason = failure_of(error).reason or error.code().name
        return "right" if (kind, reason) == ("nobody", "USER_NOT_FOUND") else reason
    return "right" if is_right(answer, user_id, other, kind) else f"wrong {kind}: {answer}"


def is_right(answer: Any, user_id: str, other: str, kind: str) -> bool:
    match kind:
        case "nobody":
            right = False
        case "get" | "update":
            right = (answer.user.user_id, answer.user.email) == (user_id, user_id)
        case "batch":
            right = [(user.user_id, user.email) for user in answer.users] == [(user_id, user_id), (other, other)]
        case "session":
            right = (answer.session.user_id, answer.session.session_id) == (user_id, user_id)
        case _:
            right = [(found.user_id, found.session_id) for found in answer.sessions] == [(user_id, user_id)]
    return right


async def make_calls(stubs: Stubs, dice: random.Random, calls: int, cancelled: float, kinds: list[str]) -> Counter[str]:
    remaining = repeat(None, calls)
    outcomes: Counter[str] = Counter()

    async def work() -> None:
        for _ in remaining:
            user_id, other = dice.sample(USERS, 2)
            cancel_after = dice.uniform(0, 2 * DELAY) if dice.random() < cancelled else None
            outcomes[await ask(stubs, user_id, other, dice.choice(kinds), cancel_after)] += 1

    await asyncio.gather(*(work() for _ in range(CALLERS)))
    return outcomes


async def populate(stubs: Stubs) -> None:
    for user_id in USERS:
        await add_users(stubs, [user_id], email=user_id)
        await stubs.sessions.AddSession(AddSessionRequest(user_id=user_id, session_id=user_id))


async def test_cancelled_calls_leave_nothing_behind(seed: int, dice: random.Random) -> None:
    calls = sized(2000, 20_000)
    with (
        Store() as store,
        Proxy(store.socket, delay=DELAY, seed=seed) as proxy,
        InstrumentedService(redis_url=proxy.url) as service,
    ):
        async with connect(service.address) as stubs:
            await populate(stubs)
            before = await asyncio.to_thread(service.at_rest)
            outcomes = await make_calls(
                stubs, dice, calls, CANCELLED, ["get", "get", "update", "batch", "session", "list"]
            )
            print(outcomes)  # noqa: T201 - the figure
            assert outcomes.total() == calls
            assert set(outcomes) == {"right", "cancelled"}
            assert outcomes["cancelled"] > calls * CANCELLED / 3
            await asyncio.to_thread(until, lambda: service.inside() == before, 5)
        assert proxy.accepted == 2, "a connection was thrown away"
        assert await asyncio.to_thread(service.stop) == 0


async def test_a_connection_with_unread_replies_is_closed() -> None:
    """The unexpected reply arrives while no call waits, so that no call fails because of it."""
    with Store() as store, Proxy(store.socket) as proxy, Service(redis_url=proxy.url) as service:
        async with connect(service.address) as stubs:
            await populate(stubs)
            for thrown_away in range(1, 4):
                doubled, before = proxy.doubled, proxy.accepted
                proxy.double_reply = lambda reply: b"user7" in reply
                assert await ask(stubs, "user7", "user8", "get", None) == "right"
                proxy.double_reply = lambda _: False
                assert proxy.doubled == doubled + 1
                await asyncio.to_thread(until, lambda before=before: proxy.accepted > before)
                async with asyncio.timeout(10):
                    while (found := await ask(stubs, "user8", "user9", "get", None)) != "right":
                        assert found == "STORE_UNAVAILABLE", thrown_away


@pytest.mark.long
async def test_unexpected_replies_are_delivered_to_no_call(seed: int, dice: random.Random) -> None:
    calls = sized(2000, 20_000)
    with Store() as store, Proxy(store.socket, seed=seed) as proxy, Service(redis_url=proxy.url) as service:
        async with connect(service.address) as stubs:
            await populate(stubs)
            proxy.double_reply = lambda _: dice.random() < 0.02
            # A reply such as "does not exist" contains no name, so only its position identifies its call.
            kinds = ["get", "get", "nobody", "update", "batch", "session", "list"]
            outcomes = await make_calls(stubs, dice, calls, 0.0, kinds)
            while proxy.doubled < FEWEST_DOUBLED and outcomes.total() < 10 * calls:
                outcomes += await make_calls(stubs, dice, calls, 0.0, kinds)
            proxy.double_reply = lambda _: False
            print(outcomes, proxy.doubled, proxy.accepted)  # noqa: T201 - the figure
            assert proxy.doubled >= FEWEST_DOUBLED, "too few replies were doubled to show anything"
            assert outcomes["right"] > calls / 20
            assert set(outcomes) == {"right", "STORE_UNAVAILABLE"}
            assert proxy.accepted > 2, "the connections that could no longer be trusted were kept"

            # The last stray reply may have ended a connection just now, and calls fail until the next one is tried.
            async with asyncio.timeout(10):
                while (found := set(await make_calls(stubs, dice, 100, 0.0, kinds))) != {"right"}:
                    assert found <= {"right", "STORE_UNAVAILABLE"}
                    await asyncio.sleep(0.1)
