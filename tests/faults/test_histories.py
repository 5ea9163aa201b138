"""While replies are lost, concurrent calls on a user have the same effect as calls in some sequence."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable
from dataclasses import replace

import grpc
import pytest
from harness import histories
from harness.connections import Stubs, connect
from harness.failures import failure_of
from harness.histories import UNKNOWN, Event, State, Step, final_states
from harness.proxies import Proxy
from harness.services import Service
from harness.sizing import sized
from harness.stores import Store

from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import AddUserRequest, DeleteUserRequest, GetUserRequest, UpdateUserRequest
from userservice_server.check import check

IDS = 100
CALLERS = 48
CALLS_A_ROUND = 400
HOT = 10  # ids, of which a round takes some, so that callers meet
FEWEST_UNKNOWN = 6  # outcomes; with fewer a run shows nothing, and goes on
_ANSWERS = {"USER_ALREADY_EXISTS": "exists", "USER_NOT_FOUND": "missing"}


class Round:
    """Calls of many callers on a few users, until the first call fails and all others have ended."""

    def __init__(self, stubs: Stubs, dice: random.Random, number: int) -> None:
        self.events: dict[str, list[Event]] = defaultdict(list)
        self.answers: Counter[str] = Counter()
        self._stubs, self._dice = stubs, dice
        self._user_ids = [f"user{(number * HOT + offset) % IDS}" for offset in range(HOT)]
        self._remaining = iter(range(number * CALLS_A_ROUND, (number + 1) * CALLS_A_ROUND))

    async def run(self) -> None:
        await asyncio.gather(*(self._work() for _ in range(CALLERS)))
        # A call whose connection was cut may have left a command in a buffer. Now it has taken effect, or never will.
        await asyncio.sleep(0.1)
        end = time.monotonic()
        for user_id, events in self.events.items():
            self.events[user_id] = [
                replace(event, returned=end) if event.answer == UNKNOWN else event for event in events
            ]
        for user_id in self._user_ids:
            while (
                answer := await told(self._stubs.users.GetUser(GetUserRequest(user_id=user_id), timeout=20))
            ) == UNKNOWN:
                pass
            self.events[user_id].append(Event(time.monotonic(), time.monotonic(), histories.get, answer))

    async def _work(self) -> None:
        for number in self._remaining:
            user_id = self._dice.choice(self._user_ids)
            step, call = self._call(user_id, f"v{number}")
            called = time.monotonic()
            answer = await told(call)
            self.events[user_id].append(Event(called, time.monotonic(), step, answer))
            self.answers[answer if answer in ("ok", "exists", "missing", UNKNOWN) else "value"] += 1
            if answer == UNKNOWN or self.answers[UNKNOWN]:
                return

    def _call(self, user_id: str, value: str) -> tuple[Step, Awaitable[object]]:
        users = self._stubs.users
        match self._dice.choice(["add", "delete", "get", "get", "email", "email", "name", "name"]):
            case "add":
                return histories.add(value), users.AddUser(AddUserRequest(user_id=user_id, email=value), timeout=20)
            case "delete":
                return histories.delete, users.DeleteUser(DeleteUserRequest(user_id=user_id), timeout=20)
            case "get":
                return histories.get, users.GetUser(GetUserRequest(user_id=user_id), timeout=20)
            case "email":
                request = UpdateUserRequest(user_id=user_id, email=value)
                return histories.set_email(value), users.UpdateUser(request, timeout=20)
            case _:
                request = UpdateUserRequest(user_id=user_id, first_name=value)
                return histories.set_name(value), users.UpdateUser(request, timeout=20)


async def told(call: Awaitable[object]) -> str:
    """Returns what the caller receives: the outcome of the call."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        reason = failure_of(error).reason
        if reason == "STORE_UNAVAILABLE":
            await asyncio.sleep(0.1)  # it is on its way back
            return UNKNOWN
        return _ANSWERS[reason]
    user = getattr(answer, "user", None)
    if not isinstance(user, User):
        return "ok"
    is_added = type(answer).__name__ == "AddUserResponse"
    return "ok" if is_added else f"{user.email}|{user.first_name}"


@pytest.mark.timeout(500)
async def test_calls_under_faults_are_linearizable(seed: int, dice: random.Random) -> None:
    calls, number, end = sized(1200, 50_000), 0, time.monotonic() + 240
    answers: Counter[str] = Counter()
    states: dict[str, set[State]] = {f"user{number}": {None} for number in range(IDS)}
    with (
        Store() as store,
        Proxy(store.socket, delay=0.002, seed=seed) as proxy,
        Service("--log-level", "error", redis_url=proxy.url) as service,
    ):
        async with connect(service.address) as stubs:
            proxy.lose_reply_after = proxy.chance(0.004, b"EVALSHA")
            while (answers.total() < calls or answers[UNKNOWN] < FEWEST_UNKNOWN) and time.monotonic() < end:
                number += 1
                round_ = Round(stubs, dice, number)
                await round_.run()
                answers += round_.answers
                for user_id, events in round_.events.items():
                    states[user_id] = final_states(events, states[user_id])
                    assert states[user_id], f"no order of its calls explains what was seen of {user_id}"
            assert await asyncio.to_thread(lambda: check(store.url, "userservice", 5).findings) == []
        print(f"{answers.total()} calls, {dict(answers)}, {proxy.lost} replies lost")  # noqa: T201 - the figure
        assert answers[UNKNOWN] >= FEWEST_UNKNOWN
        assert min(answers[kind] for kind in ("ok", "exists", "missing", "value")) > answers.total() / 50


# The checker itself: histories that a broken service would cause, and their sound twins.


def history(*calls: tuple[float, float, Step, str]) -> list[Event]:
    return [Event(*call) for call in calls]


@pytest.mark.parametrize(
    ("events", "explained"),
    [
        (history((0, 1, histories.add("a"), "ok"), (2, 3, histories.get, "a|")), True),
        (history((0, 1, histories.add("a"), "ok"), (2, 3, histories.get, "missing")), False),  # a lost write
        (history((0, 5, histories.add("a"), "ok"), (1, 3, histories.get, "missing")), True),
        (history((0, 1, histories.add("a"), "ok"), (2, 3, histories.add("b"), "ok")), False),  # added twice
        (history((0, 1, histories.add("a"), UNKNOWN), (2, 3, histories.add("b"), "ok")), True),
        (
            history((0, 9, histories.add("a"), UNKNOWN), (2, 3, histories.get, "a|"), (4, 5, histories.get, "missing")),
            False,
        ),
        (history((0, 1, histories.delete, "missing"), (2, 3, histories.get, "missing")), True),
        (
            # a lost update: both succeed, and only one is there
            history(
                (0, 1, histories.add("a"), "ok"),
                (2, 5, histories.set_email("b"), "b|"),
                (2, 5, histories.set_name("n"), "a|n"),
                (6, 7, histories.get, "a|n"),
            ),
            False,
        ),
        (
            history(
                (0, 1, histories.add("a"), "ok"),
                (2, 5, histories.set_email("b"), "b|n"),
                (2, 5, histories.set_name("n"), "a|n"),
                (6, 7, histories.get, "b|n"),
            ),
            True,
        ),
        (
            # a stale read
            history(
                (0, 1, histories.add("a"), "ok"),
                (2, 3, histories.set_email("b"), "b|"),
                (4, 5, histories.get, "a|"),
            ),
            False,
        ),
    ],
)
def test_the_checker_accepts_valid_and_rejects_invalid_histories(events: list[Event], *, explained: bool) -> None:
    assert bool(final_states(events, [None])) is explained
