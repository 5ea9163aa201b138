"""A long run with many calls and abandoned streams, which leave nothing behind.

Most of the load comes from h2load and from bare HTTP/2, because two cores are not sufficient for the server and that
many calls of a Python client. The test checks the responses to h2load by their size, and by the server's log, which has
a line for each failed call.
"""

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

import grpc
import pytest
from google.protobuf.message import Message
from harness.abandoned import abandon_streams
from harness.connections import Stubs, connect
from harness.failures import failure_of
from harness.population import fill, struct
from harness.services import InstrumentedService, resident
from harness.sizing import sized
from harness.stores import Store
from harness.tools import require
from harness.waiting import until

from loadgen import h2load
from userservice import SessionManager, UserManager
from userservice.v1 import user_service_pb2 as pb

pytestmark = pytest.mark.long

MIB = 1 << 20
USERS = 2000
CALLS, STREAMS = sized(8000, 1_000_000), sized(1500, 100_000)
ROUNDS = sized(1, 10)
WRITES_A_MANAGER = 30
PAUSE = 0.05  # seconds between two writes of the managers
MOST_GROWTH = 64 * MIB


@dataclass(frozen=True)
class Kind:
    """A kind of call: its share of all calls, and its expected status code."""

    method: str
    request: Message
    share: float
    code: str = "OK"


KINDS = [
    Kind("GetUser", pb.GetUserRequest(user_id="u1"), 0.44),
    Kind("BatchGetUsers", pb.BatchGetUsersRequest(user_ids=[f"u{number}" for number in range(10)]), 0.1),
    Kind("ListUsers", pb.ListUsersRequest(limit=10), 0.1),
    Kind("GetUserSessions", pb.GetUserSessionsRequest(user_id="u2"), 0.1),
    Kind("UpdateUser", pb.UpdateUserRequest(user_id="u3", email="e", etag="another"), 0.06, "ABORTED"),
    Kind("GetUser", pb.GetUserRequest(user_id="nobody"), 0.1, "NOT_FOUND"),
    Kind("AddUser", pb.AddUserRequest(user_id="u4", metadata=struct({"a": {"b": [1]}})), 0.06, "ALREADY_EXISTS"),
    Kind("DeleteUser", pb.DeleteUserRequest(user_id="u\0"), 0.04, "INVALID_ARGUMENT"),
]


async def answer_bytes(stubs: Stubs, kind: Kind) -> int:
    """Returns the size of a correct response, after checking that the response is correct."""
    code, size = "OK", 0
    try:
        answer = await getattr(stubs.users, kind.method)(kind.request, timeout=10)
        size = h2load.FRAME_HEAD_BYTES + int(answer.ByteSize())
    except grpc.aio.AioRpcError as error:
        code = failure_of(error).code
    assert code == kind.code
    return size


class Soak:
    """The whole load on one service."""

    def __init__(self, service: InstrumentedService, dice: random.Random) -> None:
        self.writes = 0
        self.cancelled: Counter[str] = Counter()
        self._service, self._dice = service, dice
        self._names = count()

    async def run(self, calls: int, streams: int) -> Counter[str]:
        """Runs the load; returns the number of h2load's calls by status code."""
        writing = asyncio.create_task(self._write())
        leaving = asyncio.create_task(asyncio.to_thread(self._leave, streams))
        codes: Counter[str] = Counter()
        async with connect(self._service.address) as stubs:
            sizes = [await answer_bytes(stubs, kind) for kind in KINDS]
        for _ in range(ROUNDS):
            for kind, size in zip(KINDS, sizes, strict=True):
                number = round(calls * kind.share / ROUNDS)
                await asyncio.to_thread(self._call, kind, number, size)
                codes[kind.code] += number
        await leaving
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
        return codes + Counter(kind.code for kind in KINDS)

    def _call(self, kind: Kind, number: int, size: int) -> None:
        method = f"UserService/{kind.method}"
        load = h2load.run(self._service.port, method, kind.request, calls=number, connections=4, streams=8)
        assert load.data_bytes == number * size, kind

    def _leave(self, streams: int) -> None:
        at_once, answered = abandon_streams(self._service.port, streams, [1, 50, 1000], self._dice)
        self.cancelled += Counter({"at once": at_once, "with an answer under way": answered})

    async def _write(self) -> None:
        """Makes writes with the managers at a low rate, sometimes over a new connection."""
        while True:
            own = [("grpc.use_local_subchannel_pool", 1)]
            async with (
                UserManager(self._service.address, channel_options=own) as users,
                SessionManager(self._service.address, channel_options=own) as sessions,
            ):
                for _ in range(WRITES_A_MANAGER):
                    await self._live(users, sessions, f"w{next(self._names)}")

    async def _live(self, users: UserManager, sessions: SessionManager, user_id: str) -> None:
        user = await users.add(user_id=user_id, metadata={"a": {"b": [1]}})
        await sessions.add(user_id=user_id, session_id="s")
        await users.update(user_id=user_id, metadata={"c": 1}, etag=user.etag)
        await sessions.update(user_id=user_id, session_id="s", metadata={"d": 2})
        await users.delete(user_id)
        self.writes += 5
        await asyncio.sleep(PAUSE)


def told(service: InstrumentedService) -> Counter[str]:
    """Returns the number of failed calls by status code, counted in the log."""
    return Counter(line["code"] for line in service.log if "code" in line)


@pytest.mark.timeout(600)
async def test_calls_and_streams_leave_nothing_behind(dice: random.Random) -> None:
    require("h2load")
    with Store() as store:
        fill(store, (f"u{number}" for number in range(USERS)), metadata=struct({"k": "x" * 500}))
        with InstrumentedService("--access-log", "false", redis_url=store.url) as service:
            soak = Soak(service, dice)
            expected = await soak.run(CALLS // 20, STREAMS // 20)  # to be warm
            inside, before = await asyncio.to_thread(service.at_rest), resident(service.pid)
            soak.cancelled.clear()
            started = time.monotonic()
            codes = await soak.run(CALLS, STREAMS)
            seconds = time.monotonic() - started
            await asyncio.to_thread(until, lambda: service.inside() == inside, 10)
            grown = resident(service.pid) - before
            assert await asyncio.to_thread(service.stop) == 0
            failed = told(service)
        calls = codes.total() + soak.writes
        print(  # noqa: T201 - the figure
            f"{calls} calls ({dict(codes)}), {soak.writes} writes of managers, {soak.cancelled.total()} streams left"
            f" ({dict(soak.cancelled)}) in {seconds:.0f} s: {before / MIB:.0f} MiB and {grown / MIB:+.1f}, {inside}"
        )
        assert grown < MOST_GROWTH
        assert codes.total() >= CALLS
        assert soak.cancelled.total() >= STREAMS
        expected += codes
        del expected["OK"]
        assert failed.pop("CANCELLED") > STREAMS / 3, "few streams were under way when they were left"
        assert failed == expected
