"""A failed call leaves no reference cycles: its objects are freed when it ends, in server and client."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from harness import raw as raw_rpcs
from harness.connections import Stubs, connect
from harness.garbage import collector_off, left_over
from harness.population import fill, struct
from harness.ports import free_port
from harness.proxies import Proxy
from harness.services import InstrumentedService
from harness.stores import Store

from userservice import SyncUserManager, UserManager, UserServiceError
from userservice.v1 import session_service_pb2 as sessions
from userservice.v1 import user_service_pb2 as users

CALLS = 20
REQUEST_ID = "0190163d-8694-739b-aea5-966c26f8ad91"
LARGE = struct({"k": "x" * 40_000})

# What belongs to one call in the server. A new connection to the store and, of each call, grpc itself leave a few
# objects of their own in cycles; none of them holds the call.
OF_A_CALL = (
    "Call",
    "Request",
    "_ServicerContext",
    "RPCState",
    "AbortError",
    "Violation",
    "Outcome",
    "Deadline",
    "generator",
)


def of_calls(found: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in found.items() if name.endswith(OF_A_CALL) or name.startswith("frame told")}


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Store() as store, Proxy(store.socket) as proxy:
        fill(store, (f"u{number}" for number in range(2000)), metadata=struct({"k": "x" * 1000}))
        yield proxy


@pytest.fixture(scope="module")
def service(proxy: Proxy) -> Iterator[InstrumentedService]:
    limits = ("--call-timeout", "1", "--stall-timeout", "0.3", "--store-timeout", "3")
    with InstrumentedService(*limits, redis_url=proxy.url, window="uncollected.py") as service:
        yield service


async def ended(call: Awaitable[object]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    except asyncio.CancelledError:
        return "CANCELLED"
    return "OK"


async def read_one(stubs: Stubs, **fields: Any) -> object:
    """Reads the first chunk of a stream, and abandons the stream."""
    stream = stubs.users.ListUsersChunked(users.ListUsersChunkedRequest(**fields))
    return await stream.read()


async def abandon(stubs: Stubs) -> object:
    """Abandons a stream at a random moment.

    The server is then between two writes, in a write, or waits for the reader.
    """
    stream = stubs.users.ListUsersChunked(users.ListUsersChunkedRequest(chunk_size=10))
    for _ in range(random.randint(1, 20)):  # noqa: S311 - any moment will do
        await stream.read()
    stream.cancel()
    return None


async def stall(stubs: Stubs) -> object:
    """Continues to read after the stall timeout of the server."""
    stream = stubs.users.ListUsersChunked(users.ListUsersChunkedRequest(chunk_size=1000))
    while True:
        await stream.read()
        await asyncio.sleep(0.6)


async def cancel(stubs: Stubs) -> object:
    call = stubs.users.GetUser(users.GetUserRequest(user_id="u1"))
    await asyncio.sleep(0.001)
    call.cancel()
    return await call


def raw(stubs: Stubs, method: str, request: bytes) -> Awaitable[object]:
    return raw_rpcs.unary_unary(stubs.channel, f"/userservice.v1.UserService/{method}")(request)


FAILING: dict[str, tuple[str, Callable[[Stubs], Awaitable[object]]]] = {
    "invalid": ("INVALID_ARGUMENT", lambda s: s.users.BatchGetUsers(users.BatchGetUsersRequest(user_ids=["", "a"]))),
    "undecodable": ("INVALID_ARGUMENT", lambda s: raw(s, "GetUser", b"\xff")),
    "oversized": ("INVALID_ARGUMENT", lambda s: raw(s, "BatchGetUsers", b"\n\0" * 500_000)),
    "invalid stream": ("INVALID_ARGUMENT", lambda s: read_one(s, chunk_size=-1)),
    "not found": ("NOT_FOUND", lambda s: s.users.GetUser(users.GetUserRequest(user_id="nobody"))),
    "no owner": ("NOT_FOUND", lambda s: s.users.GetUserSessions(users.GetUserSessionsRequest(user_id="nobody"))),
    "no session": (
        "NOT_FOUND",
        lambda s: s.sessions.GetSession(sessions.GetSessionRequest(user_id="u1", session_id="nobody")),
    ),
    "exists": ("ALREADY_EXISTS", lambda s: s.users.AddUser(users.AddUserRequest(user_id="u1", metadata=LARGE))),
    "etag": ("ABORTED", lambda s: s.users.UpdateUser(users.UpdateUserRequest(user_id="u1", email="e", etag="other"))),
    "too large": (
        "INVALID_ARGUMENT",
        lambda s: s.users.UpdateUser(users.UpdateUserRequest(user_id="u1", metadata=struct({"other": "x" * 65_000}))),
    ),
    "cancelled": ("CANCELLED", cancel),
    "abandoned stream": ("OK", abandon),
    "stalled stream": ("UNAVAILABLE", stall),
}

WITHOUT_STORE: dict[str, Callable[[Stubs], Awaitable[object]]] = {
    "get": lambda s: s.users.GetUser(users.GetUserRequest(user_id="u1")),
    "add": lambda s: s.users.AddUser(users.AddUserRequest(user_id="new")),
    "update": lambda s: s.users.UpdateUser(users.UpdateUserRequest(user_id="u1", email="e", request_id=REQUEST_ID)),
    "batch": lambda s: s.users.BatchGetUsers(users.BatchGetUsersRequest(user_ids=["u1"])),
    "page": lambda s: s.users.ListUsers(users.ListUsersRequest()),
    "sessions": lambda s: s.users.GetUserSessions(users.GetUserSessionsRequest(user_id="u1")),
    "stream": read_one,
}


async def assert_freed(service: InstrumentedService) -> None:
    def left() -> bool:
        assert not of_calls(Counter(service.inside()))
        return True

    await asyncio.sleep(0.05)  # a handler can end after its caller has received the status
    await asyncio.to_thread(left)


@pytest.mark.parametrize("kind", FAILING)
async def test_nothing_is_left_of_failed_calls(service: InstrumentedService, kind: str) -> None:
    code, call = FAILING[kind]
    await asyncio.to_thread(service.inside)  # frees what others left
    async with connect(service.address, ("grpc.http2.bdp_probe", 0)) as stubs:
        outcomes = await asyncio.gather(*(ended(call(stubs)) for _ in range(CALLS)))
        # A call can be answered before it is cancelled.
        assert code in outcomes and set(outcomes) <= {code, "OK" if kind == "cancelled" else code}  # noqa: PT018
        await assert_freed(service)


@pytest.mark.long
async def test_nothing_is_left_of_calls_without_a_store(service: InstrumentedService, proxy: Proxy) -> None:
    """The first calls time out or lose their connection; later calls are rejected immediately."""
    async with connect(service.address) as stubs:
        proxy.latency = 5
        try:
            calls = asyncio.gather(*(ended(call(stubs)) for call in WITHOUT_STORE.values() for _ in range(CALLS)))
            await asyncio.sleep(1.3)
            proxy.cut_all()
            assert set(await calls) == {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
            await asyncio.gather(*(ended(call(stubs)) for call in WITHOUT_STORE.values()))
        finally:
            proxy.latency = 0
            proxy.cut_all()
        await assert_freed(service)


# Not the calls and tasks of grpc.aio: its streams are in cycles of their own. So is the CancelledError of a task that
# was cancelled before it could send the request of a stream.
OF_THE_CLIENT = ("Error", "Attempts", "Future", "ChunkReader", "Request")
OF_GRPC = "CancelledError"


def of_client(found: Counter[str]) -> dict[str, int]:
    return {
        name: count
        for name, count in found.items()
        if name != OF_GRPC and (name.endswith(OF_THE_CLIENT) or name.startswith("frame "))
    }


async def fail_in_all_ways(manager: UserManager, away: UserManager) -> int:
    """Returns how many calls failed as expected."""
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: manager.get("nobody"),
        lambda: manager.get("x" * 1000),
        lambda: manager.add(user_id="u1"),
        lambda: away.get("u1", timeout=0.1),
        lambda: anext(away.list_chunked(timeout=0.1)),
        lambda: anext(manager.list_chunked(chunk_size=-1)),
    ]
    failed = 0
    for call in calls:
        try:
            await call()
        except UserServiceError:
            failed += 1
    return failed


async def test_nothing_is_left_of_errors_in_the_client(service: InstrumentedService) -> None:
    async with UserManager(service.address) as manager, UserManager(f"127.0.0.1:{free_port()}") as away:
        await fail_in_all_ways(manager, away)
        with collector_off():
            assert await fail_in_all_ways(manager, away) == 6
            await asyncio.sleep(0.05)
            found = of_client(left_over())
        assert not found


def test_nothing_is_left_of_errors_in_the_blocking_client(service: InstrumentedService) -> None:
    with SyncUserManager(service.address) as manager:

        def fail() -> int:
            failed = 0
            for call in (lambda: manager.get("nobody"), lambda: next(iter(manager.list_chunked(chunk_size=-1)))):
                try:
                    call()
                except UserServiceError:
                    failed += 1
            return failed

        fail()
        with collector_off():
            assert fail() == 2
            found = of_client(left_over())
        assert not found
