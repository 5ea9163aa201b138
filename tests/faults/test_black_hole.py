"""A network that drops all packets to Redis: calls end at their deadlines, and the service recovers soon afterwards."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from harness.connections import Stubs, connect, health
from harness.failures import failure_of
from harness.population import add_users
from harness.proxies import Proxy
from harness.services import Service
from harness.sizing import sized
from harness.stores import Store
from harness.waiting import until

from userservice.v1.session_service_pb2 import AddSessionRequest, DeleteSessionRequest, GetSessionRequest
from userservice.v1.session_service_pb2 import UpdateSessionRequest as UpdateSession
from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    BatchGetUsersRequest,
    DeleteUserRequest,
    GetUserRequest,
    GetUserSessionsRequest,
    ListUsersChunkedRequest,
    ListUsersRequest,
    UpdateUserRequest,
)

pytestmark = pytest.mark.long

LATE = 0.1  # seconds after its deadline that a call may end
RECOVERY = 2.0  # seconds after the return of Redis until the service is healthy

Start = Callable[[float], Awaitable[object]]


def every_rpc(stubs: Stubs) -> dict[str, Start]:
    users, sessions = stubs.users, stubs.sessions
    return {
        "AddUser": lambda t: users.AddUser(AddUserRequest(user_id="new"), timeout=t),
        "GetUser": lambda t: users.GetUser(GetUserRequest(user_id="ada"), timeout=t),
        "UpdateUser": lambda t: users.UpdateUser(UpdateUserRequest(user_id="ada", email="x"), timeout=t),
        "DeleteUser": lambda t: users.DeleteUser(DeleteUserRequest(user_id="ada"), timeout=t),
        "ListUsers": lambda t: users.ListUsers(ListUsersRequest(), timeout=t),
        "ListUsersChunked": lambda t: users.ListUsersChunked(ListUsersChunkedRequest(), timeout=t).read(),
        "BatchGetUsers": lambda t: users.BatchGetUsers(BatchGetUsersRequest(user_ids=["ada"]), timeout=t),
        "GetUserSessions": lambda t: users.GetUserSessions(GetUserSessionsRequest(user_id="ada"), timeout=t),
        "AddSession": lambda t: sessions.AddSession(AddSessionRequest(user_id="ada", session_id="new"), timeout=t),
        "GetSession": lambda t: sessions.GetSession(GetSessionRequest(user_id="ada", session_id="s"), timeout=t),
        "UpdateSession": lambda t: sessions.UpdateSession(UpdateSession(user_id="ada", session_id="s"), timeout=t),
        "DeleteSession": lambda t: sessions.DeleteSession(
            DeleteSessionRequest(user_id="ada", session_id="s"), timeout=t
        ),
    }


@contextlib.asynccontextmanager
async def behind_a_proxy() -> AsyncIterator[tuple[Proxy, Service, Stubs]]:
    with Store() as store, Proxy(store.socket) as proxy, Service(redis_url=proxy.url) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, ["ada"])
            yield proxy, service, stubs


async def ended(start: Start, deadline: float) -> tuple[str, float]:
    """The outcome of a call, and how long after its deadline it ended."""
    started = time.monotonic()
    try:
        await start(deadline)
    except grpc.aio.AioRpcError as error:
        code = failure_of(error).code
    else:
        code = "OK"
    return code, time.monotonic() - started - deadline


async def test_every_call_ends_at_its_deadline() -> None:
    async with behind_a_proxy() as (proxy, _, stubs):
        proxy.black_hole = True
        latest = 0.0
        for deadline in (0.2, 1.0, 2.0)[: sized(2, 3)]:
            for _ in range(sized(1, 3)):
                late = await lateness(stubs, deadline)
                # Measured again, because other programs on the machine also cause delays.
                latest = max(latest, late if late < LATE else await lateness(stubs, deadline))
        print(f"at most {latest * 1e3:.0f} ms late")  # noqa: T201 - the figure
        assert latest < LATE


async def lateness(stubs: Stubs, deadline: float) -> float:
    """Returns the maximum lateness of all RPCs in seconds; checks that each fails with an expected error."""
    calls = every_rpc(stubs)
    found = await asyncio.gather(*(ended(start, deadline) for start in calls.values()))
    outcomes = dict(zip(calls, found, strict=True))
    assert {code for code, _ in found} <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}, outcomes
    return max(late for _, late in found)


@pytest.mark.parametrize(
    ("what_was_sent", "holes"),
    [
        ("arrives late", [0.5, 5.0]),
        ("is lost", [3.7, 5.0]),  # longer than --store-timeout: within that, TCP sends again what was lost
    ],
)
async def test_the_service_recovers_within_two_seconds(what_was_sent: str, holes: list[float]) -> None:
    slowest = 0.0
    async with behind_a_proxy() as (proxy, service, stubs):
        for seconds in holes[: sized(1, 2)]:
            proxy.swallow = what_was_sent == "is lost"
            took = await recovery(proxy, service, stubs, seconds)
            # Measured again, because other programs on the machine also cause delays.
            slowest = max(slowest, took if took < RECOVERY else await recovery(proxy, service, stubs, seconds))
    print(f"well again within {slowest:.2f} s")  # noqa: T201 - the figure
    assert slowest < RECOVERY


async def test_the_service_recovers_with_a_slow_store() -> None:
    """The handshake of this store takes as long as the service waits for a connection whose packets are dropped."""
    with Store() as store, Proxy(store.socket) as proxy, Service(redis_url=proxy.url) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, ["ada"])
            proxy.latency = 0.4
            store.kill()
            await asyncio.to_thread(until, lambda: health(service.address) == "NOT_SERVING")
            store.start()
            await asyncio.to_thread(until, lambda: health(service.address) == "SERVING")
            before = proxy.accepted
            await asyncio.gather(*(answers(stubs) for _ in range(20)))
            assert proxy.accepted == before, "live connections are thrown away"


async def recovery(proxy: Proxy, service: Service, stubs: Stubs, seconds: float) -> float:
    """Returns the seconds from the end of a black hole of the given length until the same process works again."""
    process = service.pid
    proxy.black_hole = True
    calls = asyncio.gather(*(ended(start, 1.0) for start in every_rpc(stubs).values()))
    await asyncio.sleep(seconds)
    await calls
    proxy.black_hole = False
    returned = time.monotonic()
    await asyncio.to_thread(until, lambda: health(service.address) == "SERVING", 15, 0.02)
    while not await answers(stubs):
        pass
    took = time.monotonic() - returned
    assert service.running
    assert service.pid == process
    return took


async def answers(stubs: Stubs) -> bool:
    try:
        await stubs.users.GetUser(GetUserRequest(user_id="ada"), timeout=2)
    except grpc.aio.AioRpcError as error:
        return failure_of(error).code == "NOT_FOUND"
    return True
