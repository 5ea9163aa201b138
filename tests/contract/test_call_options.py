"""`with_options` and `iter` of the Python managers, asyncio and blocking, against a server that records the headers."""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from google.protobuf.message import Message
from harness.services import Service
from harness.stand_ins import Refusal, StandIn, once, serve

from userservice import (
    ManagerClosedError,
    SessionManager,
    StoreUnavailableError,
    SyncSessionManager,
    SyncUserManager,
    UserManager,
    UserNotFoundError,
)
from userservice.v1 import user_service_pb2 as messages
from userservice.v1.user_pb2 import User as UserMessage
from userservice.v1.view_pb2 import View

KINDS: dict[str, tuple[Any, Any]] = {
    "asyncio": (UserManager, SessionManager),
    "blocking": (SyncUserManager, SyncSessionManager),
}

pytestmark = pytest.mark.parametrize("kind", list(KINDS))


async def run(method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Calls a method of a manager, in a thread if it is blocking; collects the results of a generator."""
    if inspect.iscoroutinefunction(method):
        return await method(*arguments, **options)
    made = await asyncio.to_thread(functools.partial(method, *arguments, **options))
    if inspect.isasyncgen(made):
        return [each async for each in made]
    return await asyncio.to_thread(list, made) if inspect.isgenerator(made) else made


class Users(StandIn):
    """A server with one user, whose chunks and pages have one user each; fails as many calls as a test sets."""

    def __init__(self, ids: Sequence[int] = ()) -> None:
        super().__init__(
            {
                "GetUser": self._get,
                "ListUsersChunked": self._chunks,
                "ListUsers": self._page,
            }
        )
        self.ids = ids
        self.failures = 0
        self.requests: list[Any] = []

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise Refusal(0)

    async def _get(self, _: bytes) -> AsyncIterator[Message]:
        self._fail()
        async for answer in once(messages.GetUserResponse(user=UserMessage(user_id="ada")))(b""):
            yield answer

    async def _chunks(self, encoded: bytes) -> AsyncIterator[Message]:
        request = messages.ListUsersChunkedRequest.FromString(encoded)
        self.requests.append(request)
        for id_ in self.ids:
            if id_ > request.cursor:
                following = id_ if id_ != self.ids[-1] else 0
                yield messages.ListUsersChunkedResponse(users=[UserMessage(id=id_)], next_cursor=following)
                self._fail()

    async def _page(self, encoded: bytes) -> AsyncIterator[Message]:
        request = messages.ListUsersRequest.FromString(encoded)
        self.requests.append(request)
        self._fail()
        left = [id_ for id_ in reversed(self.ids) if not request.cursor or id_ < request.cursor]
        following = left[0] if len(left) > 1 else 0
        yield messages.ListUsersResponse(users=[UserMessage(id=left[0])], next_cursor=following)


async def test_options_apply_to_the_calls_of_the_new_manager_only(kind: str) -> None:
    server = Users()
    async with serve(server) as address:
        manager = KINDS[kind][0](address, token="one", metadata=[("tenant", "a"), ("tenant", "b"), ("zone", "z")])
        other = manager.with_options(token="two", metadata=[("tenant", "c"), ("x-request-id", "call-7")])
        third = other.with_options(token=lambda: "three", metadata=[("zone", "y")])
        for each in (manager, other, third, manager):
            await run(each.get, "ada")
        await run(manager.close)
    chosen = {"authorization", "tenant", "zone", "x-request-id"}
    sent = [sorted((key, value) for key, value in headers if key in chosen) for headers in server.headers]
    first = [("authorization", "Bearer one"), ("tenant", "a"), ("tenant", "b"), ("zone", "z")]
    second = [("authorization", "Bearer two"), ("tenant", "c"), ("x-request-id", "call-7"), ("zone", "z")]
    third_ = [("authorization", "Bearer three"), ("tenant", "c"), ("x-request-id", "call-7"), ("zone", "y")]
    assert sent == [first, second, third_, first]
    assert len({*server.peers}) == 1  # one connection


async def test_closing_a_manager_with_options_closes_nothing(kind: str) -> None:
    async with serve(Users()) as address:
        manager = KINDS[kind][0](address)
        other = manager.with_options(timeout=5)
        await run(other.get, "ada")
        await run(other.close)
        await run(other.get, "ada")
        await run(manager.get, "ada")
        await run(manager.close)
        with pytest.raises(ManagerClosedError):
            await run(other.get, "ada")


async def test_retries_limit_the_attempts(kind: str) -> None:
    server = Users([1, 2, 3])
    async with serve(server) as address:
        manager = KINDS[kind][0](address, retries=2)
        for retries, failures in ((None, 2), (5, 5), (0, 0)):
            server.failures, server.calls = failures, 0
            assert (await run(manager.with_options(retries=retries).get, "ada")).user_id == "ada"
            assert server.calls == failures + 1
        for retries in (0, 1, 2):
            server.failures, server.calls = 9, 0
            with pytest.raises(StoreUnavailableError):
                await run(manager.with_options(retries=retries).get, "ada")
            assert server.calls == retries + 1
        # The number applies to each chunk of a stream: the stream fails twice after each chunk except the last.
        server.failures, server.calls = 2, 0
        assert [user.id for user in await run(manager.with_options(retries=1).iter)] == [1, 2, 3]
        assert server.calls == 3
        server.failures = 1
        with pytest.raises(StoreUnavailableError):
            await run(manager.with_options(retries=0).iter)
        await run(manager.close)


@pytest.mark.parametrize("order_by", [None, "id", "id desc"])
async def test_iter_yields_users_across_chunks_and_failures_with_all_options(kind: str, order_by: str | None) -> None:
    server = Users([3, 5, 8, 9])
    async with serve(server) as address:
        root = KINDS[kind][0](address)
        manager = root.with_options(token="token", metadata=[("tenant", "a")])
        server.failures = 2
        expected = [8, 5, 3] if order_by == "id desc" else [5, 8, 9]
        start = 9 if order_by == "id desc" else 3
        users = await run(manager.iter, start, chunk_size=7, order_by=order_by, view="BASIC", timeout=30)
        assert [user.id for user in users] == expected
        await run(root.close)
    assert len(server.requests) >= 3
    for request, headers in zip(server.requests, server.headers, strict=True):
        size = request.limit if order_by == "id desc" else request.chunk_size
        assert (size, View.Name(request.view)) == (7, "VIEW_BASIC")
        assert {("authorization", "Bearer token"), ("tenant", "a")} <= {*headers}


async def test_iter_rejects_invalid_arguments_when_it_is_called(kind: str) -> None:
    manager = KINDS[kind][0]()
    with pytest.raises(ValueError, match="timeout"):
        manager.iter(timeout=-1)
    for retries in (-1, True, 1.5):
        with pytest.raises(ValueError, match="retries must be an integer from 0"):
            manager.with_options(retries=retries)
    with pytest.raises(ValueError, match="metadata"):
        manager.with_options(metadata=[("Bad Key", "x")])
    with pytest.raises(ValueError, match="a token is not sent without TLS"):
        KINDS[kind][0]("users.example:1").with_options(token="secret")
    with pytest.raises(ValueError, match="exclude each other"):
        manager.with_options(metadata=[("authorization", "Bearer x")], token="secret")


async def test_the_call_id_of_a_caller_is_that_of_the_service(kind: str, service: Service) -> None:
    users, sessions = (manager(service.address) for manager in KINDS[kind])
    for call in (users, sessions):
        other = call.with_options(metadata=[("x-request-id", "checkout-7")])
        with pytest.raises(UserNotFoundError) as failed:
            await run(other.get, *(["nobody"] if call is users else ["nobody", "phone"]))
        assert failed.value.request_id == "checkout-7"
    for manager in (users, sessions):
        await run(manager.close)
