"""Updates users from several concurrent callers, and checks that one order of the updates explains their results."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import grpc

from harness import histories
from harness.connections import Stubs
from harness.failures import failure_of
from harness.histories import UNKNOWN, Event, State, final_states
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import GetUserRequest, UpdateUserRequest

CALLERS = 3  # of each user
_PAUSE = 0.1
_LONGEST_OUTAGE = 30.0


class SteadyHistories:
    """Updates without request_ids. A caller stops at its first update with an unknown outcome.

    Reads during a failover may be outdated, so the only read of a history is the one at its end.

    Args:
        stubs: the stubs of a service.
        users: the users.
        dice: chooses the updates.
        more: the stubs of more services, which the callers of each user share.

    Attributes:
        calls: number of updates.
        unknown: number of updates with an unknown outcome.
        unexplained: users for whom no order of the updates is consistent with the results.
    """

    def __init__(self, stubs: Stubs, users: Mapping[str, User], dice: random.Random, *more: Stubs) -> None:
        self.calls = self.unknown = 0
        self.unexplained: list[str] = []
        self._stubs, self._dice = stubs, dice
        self._of_callers = [(stubs, *more)[number % (1 + len(more))] for number in range(CALLERS)]
        self._states: dict[str, set[State]] = {
            user_id: {(user.email, user.first_name)} for user_id, user in users.items()
        }
        self._is_ending = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Updates all users; the end must be a time at which the store is available."""
        self._is_ending = False
        events: dict[str, list[Event]] = {user_id: [] for user_id in self._states}
        async with asyncio.TaskGroup() as tasks:
            for user_id, own in events.items():
                for stubs in self._of_callers:
                    tasks.create_task(self._call(stubs, user_id, own))
            yield
            self._is_ending = True
        for user_id, own in events.items():
            await self._explain(user_id, own)

    async def _call(self, stubs: Stubs, user_id: str, events: list[Event]) -> None:
        while not self._is_ending:
            self.calls += 1
            value, is_email = f"v{self.calls}", self._dice.random() < 0.5
            if is_email:
                step, request = histories.set_email(value), UpdateUserRequest(user_id=user_id, email=value)
            else:
                step, request = histories.set_name(value), UpdateUserRequest(user_id=user_id, first_name=value)
            called = time.monotonic()
            answer = await self._answer(stubs, request)
            events.append(Event(called, time.monotonic(), step, answer))
            if answer == UNKNOWN:
                self.unknown += 1
                return
            await asyncio.sleep(_PAUSE)

    @staticmethod
    async def _answer(stubs: Stubs, request: UpdateUserRequest) -> str:
        try:
            user = (await stubs.users.UpdateUser(request, timeout=10)).user
        except grpc.aio.AioRpcError as error:
            if failure_of(error).reason != "STORE_UNAVAILABLE":
                raise
            return UNKNOWN
        return f"{user.email}|{user.first_name}"

    async def _explain(self, user_id: str, events: list[Event]) -> None:
        called = time.monotonic()
        stored = await self._stored(user_id)
        # An update with an unknown outcome takes effect before the end, or never.
        ended = [replace(event, returned=called) if event.answer == UNKNOWN else event for event in events]
        read = Event(called, time.monotonic(), histories.get, f"{stored.email}|{stored.first_name}")
        self._states[user_id] = final_states([*ended, read], self._states[user_id])
        if not self._states[user_id]:
            self.unexplained.append(user_id)
            self._states[user_id] = {(stored.email, stored.first_name)}

    async def _stored(self, user_id: str) -> User:
        deadline = time.monotonic() + _LONGEST_OUTAGE
        while True:
            try:
                return (await self._stubs.users.GetUser(GetUserRequest(user_id=user_id), timeout=10)).user
            except grpc.aio.AioRpcError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
