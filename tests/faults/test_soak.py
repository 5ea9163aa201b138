"""A long life: many calls, many streams that are left in the middle, and nothing of them stays."""

import asyncio
import os
import random
import time
from collections import Counter

import grpc
import pytest
from harness.connections import Stubs, connect
from harness.population import fill, struct
from harness.services import InstrumentedService, resident
from harness.sizing import FULL, sized
from harness.stores import Store
from harness.waiting import until

from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    ListUsersChunkedRequest,
    ListUsersRequest,
    UpdateUserRequest,
)

MIB = 1 << 20
USERS = 2000
CALLERS = 32
STREAMS_A_CALL = 0.1
CALLS = sized(3000, 1_000_000)
SECONDS = float(os.environ.get("FAULTS_SOAK_SECONDS", "120" if FULL else "6"))


class Soak:
    def __init__(self, stubs: Stubs, dice: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self._stubs, self._dice = stubs, dice

    async def run(self, calls: int, seconds: float) -> None:
        """Makes so many calls, or fewer if that takes too long."""
        end = time.monotonic() + seconds
        last = self.done["calls"] + calls

        async def work(caller: int) -> None:
            while self.done["calls"] < last and time.monotonic() < end:
                self.done["calls"] += 1
                if self._dice.random() < STREAMS_A_CALL:
                    await self._leave_a_stream()
                    self.done["streams"] += 1
                await self._call(caller)

        await asyncio.gather(*map(work, range(CALLERS)))

    async def _leave_a_stream(self) -> None:
        stream = self._stubs.users.ListUsersChunked(
            ListUsersChunkedRequest(chunk_size=self._dice.choice([1, 50, 1000]))
        )
        for _ in range(self._dice.randrange(3)):
            await stream.read()  # type: ignore[attr-defined]
        stream.cancel()

    async def _call(self, caller: int) -> None:
        users = self._stubs.users
        try:
            match self._dice.randrange(8):
                case 0:
                    await users.AddUser(
                        AddUserRequest(user_id=f"c{caller}", metadata=struct({"a": {"b": [1]}})), timeout=20
                    )
                case 1:
                    await users.DeleteUser(DeleteUserRequest(user_id=f"c{caller}"), timeout=20)
                case 2:
                    await users.UpdateUser(UpdateUserRequest(user_id=f"c{caller}", email="e"), timeout=20)
                case 3:
                    await users.ListUsers(ListUsersRequest(limit=20), timeout=20)
                case _:
                    await users.GetUser(GetUserRequest(user_id=f"u{self._dice.randrange(USERS)}"), timeout=20)
        except grpc.aio.AioRpcError as error:
            self.done[error.code().name] += 1


@pytest.mark.timeout(1200)
async def test_nothing_stays_of_calls_and_streams(dice: random.Random) -> None:
    with Store() as store:
        fill(store, (f"u{number}" for number in range(USERS)), metadata=struct({"k": "x" * 500}))
        with InstrumentedService("--access-log", "false", redis_url=store.url) as service:
            async with connect(service.address) as stubs:
                soak = Soak(stubs, dice)
                await soak.run(CALLS // 10, SECONDS / 5)  # to be warm
                await asyncio.sleep(0.5)
                inside, before = await asyncio.to_thread(service.inside), resident(service.pid)
                soak.done.clear()
                await soak.run(CALLS, SECONDS)
                await asyncio.to_thread(until, lambda: service.inside() == inside, 10)
                grown = (resident(service.pid) - before) / MIB
            print(f"{dict(soak.done)}, {before / MIB:.0f} MiB and {grown:+.1f}, {inside}")  # noqa: T201 - the figure
            assert grown < 64
            assert set(soak.done) <= {"calls", "streams", "NOT_FOUND", "ALREADY_EXISTS"}
            assert soak.done["streams"] > soak.done["calls"] * STREAMS_A_CALL / 2
