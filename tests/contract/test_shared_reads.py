"""`share_reads`: concurrent gets share calls, and each has its own result, error, deadline and cancellation."""

import asyncio
import contextlib
import copy
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from harness.ports import free_port
from harness.services import Service
from harness.stand_ins import Refusal, StandIn, serve
from harness.waiting import until

from userservice import (
    DeadlineExceededError,
    InvalidArgumentError,
    ManagerClosedError,
    ManagerUnusableError,
    SyncUserManager,
    User,
    UserManager,
    UserNotFoundError,
    UserServiceError,
    _gathering,
    _sync_gathering,
)
from userservice.v1 import user_service_pb2 as messages
from userservice.v1.user_pb2 import User as UserMessage


async def eventually(probe: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not probe():  # noqa: ASYNC110 - the state of other threads and of gRPC has no event
            await asyncio.sleep(0.01)


def waiting(manager: Any) -> int:
    """Returns the number of waiting gets that can share a call with gets of this manager."""
    return sum(len(each._waiting) for each in manager._shared_reads._gets._by_view.values())


class Reader:
    """A manager with `share_reads`, asyncio or blocking; each get runs in a task or thread of its own."""

    def __init__(self, kind: str, address: str, **options: Any) -> None:
        self.manager: Any = (UserManager if kind == "asyncio" else SyncUserManager)(
            address, share_reads=True, **options
        )
        self._threads = ThreadPoolExecutor(300) if kind == "threads" else None

    def get(self, user_id: str, **options: Any) -> asyncio.Future[User]:
        if self._threads is None:
            task: asyncio.Future[User] = asyncio.ensure_future(self.manager.get(user_id, **options))
            return task
        return asyncio.ensure_future(self._in_thread(self._threads, user_id, options))

    async def _in_thread(self, threads: ThreadPoolExecutor, user_id: str, options: dict[str, Any]) -> User:
        loop = asyncio.get_running_loop()
        user: User = await loop.run_in_executor(threads, lambda: self.manager.get(user_id, **options))
        return user

    async def get_all(self, *user_ids: str) -> list[User | BaseException]:
        return await asyncio.gather(*map(self.get, user_ids), return_exceptions=True)

    def of(self, manager: Any) -> "Reader":
        """Returns a reader with another manager that uses the threads of this reader."""
        other = copy.copy(self)
        other.manager = manager
        return other

    async def until_waiting(self, count: int) -> None:
        await eventually(lambda: waiting(self.manager) == count)

    async def close(self) -> None:
        if self._threads is None:
            await self.manager.close()
        else:
            await asyncio.to_thread(self.manager.close)
            self._threads.shutdown(wait=False)


class Users(StandIn):
    """A server whose answers can be held, and that records the user_ids of each call.

    Every user exists, unless its user_id starts with `no-`. A user has the version of the time when its call arrived.
    """

    def __init__(self) -> None:
        super().__init__({"GetUser": self._get, "BatchGetUsers": self._batch})
        self.requests: list[list[str]] = []
        self.gets = 0
        self.version = 0
        self.open = asyncio.Event()
        self.open.set()
        self.failures: list[Exception] = []
        self.ended = 0

    async def until_asked(self, calls: int) -> None:
        await eventually(lambda: len(self.requests) >= calls)

    def _user(self, user_id: str) -> UserMessage:
        return UserMessage(user_id=user_id, id=1, etag=str(self.version))

    async def _get(self, encoded: bytes) -> AsyncIterator[Message]:
        self.gets += 1
        user_id = messages.GetUserRequest.FromString(encoded).user_id
        async for answer in self._answer([user_id], messages.GetUserResponse(user=self._user(user_id))):
            yield answer

    async def _batch(self, encoded: bytes) -> AsyncIterator[Message]:
        user_ids = messages.BatchGetUsersRequest.FromString(encoded).user_ids
        answer = messages.BatchGetUsersResponse(
            users=[self._user(user_id) for user_id in user_ids if not user_id.startswith("no-")],
            missing_user_ids=[user_id for user_id in user_ids if user_id.startswith("no-")],
        )
        async for message in self._answer([*user_ids], answer):
            yield message

    async def _answer(self, user_ids: list[str], answer: Message) -> AsyncIterator[Message]:
        self.requests.append(user_ids)
        if self.failures and len(user_ids) > 1:
            raise self.failures.pop()
        try:
            await self.open.wait()
        finally:
            self.ended += 1
        yield answer


@contextlib.asynccontextmanager
async def held(kind: str, **options: Any) -> AsyncIterator[tuple[Users, Reader, asyncio.Future[User]]]:
    """A server that holds its answers, and a reader with one get whose call is held."""
    server = Users()
    async with serve(server) as address:
        reader = Reader(kind, address, **options)
        try:
            server.open.clear()
            first = reader.get("first")
            await server.until_asked(1)
            yield server, reader, first
        finally:
            server.open.set()
            await reader.close()


@pytest.fixture(params=["asyncio", "threads"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait for a running call for as long as it runs."""
    for module in (_gathering, _sync_gathering):
        monkeypatch.setattr(module, "PATIENCE", 60.0)


async def test_a_get_without_others_is_a_get_user(kind: str) -> None:
    server = Users()
    async with serve(server) as address:
        reader = Reader(kind, address)
        for number in range(3):
            assert (await reader.get(f"u{number}")).user_id == f"u{number}"
        await reader.close()
    assert server.requests == [["u0"], ["u1"], ["u2"]]
    assert server.gets == 3


@pytest.mark.usefixtures("patient")
async def test_gets_share_calls_of_at_most_100(kind: str) -> None:
    async with held(kind) as (server, reader, first):
        others = [reader.get(f"u{number}") for number in range(250)]
        # Calls that are full do not wait for the first call.
        await server.until_asked(3)
        await reader.until_waiting(50)
        server.open.set()
        users = await asyncio.gather(first, *others)
    assert [user.user_id for user in users] == ["first", *(f"u{number}" for number in range(250))]
    assert [len(user_ids) for user_ids in server.requests] == [1, 100, 100, 50]


async def test_gets_of_one_turn_share_a_call() -> None:
    server = Users()
    async with serve(server) as address:
        reader = Reader("asyncio", address)
        await reader.get_all(*(f"u{number}" for number in range(60)))
        await reader.close()
    assert [len(user_ids) for user_ids in server.requests] == [60]


@pytest.mark.usefixtures("patient")
async def test_a_get_never_joins_a_call_that_was_sent(kind: str) -> None:
    async with held(kind) as (server, reader, first):
        server.version = 1
        later = [reader.get(user_id) for user_id in ("first", "other")]
        await reader.until_waiting(2)
        server.version = 2
        server.open.set()
        assert (await first).etag == "0"
        # The get was made after the write of version 1, so an older version would be stale.
        assert [user.etag for user in await asyncio.gather(*later)] == ["2", "2"]


@pytest.mark.usefixtures("patient")
async def test_equal_gets_ask_once_and_return_users_of_their_own(kind: str) -> None:
    async with held(kind) as (server, reader, _):
        same = [reader.get("ada") for _ in range(3)]
        await reader.until_waiting(3)
        server.open.set()
        one, other, _ = await asyncio.gather(*same)
    assert server.requests == [["first"], ["ada"]]
    one.metadata["changed"] = True
    assert other.metadata == {}


@pytest.mark.usefixtures("patient")
async def test_each_get_has_its_own_deadline(kind: str) -> None:
    async with held(kind) as (server, reader, first):
        waiting, long = reader.get("short", timeout=0.3), reader.get("long", timeout=30)
        with pytest.raises(DeadlineExceededError):  # the get waits for a call
            await waiting
        server.requests.clear()
        server.open.set()
        await first
        await long
        server.open.clear()
        hold = reader.get("hold")
        await server.until_asked(2)
        sent, long = reader.get("short", timeout=1), reader.get("long", timeout=30)
        await reader.until_waiting(2)
        hold.cancel()
        server.open.set()
        server.open.clear()
        await server.until_asked(3)
        with pytest.raises(DeadlineExceededError):  # the get is in a running call
            await sent
        server.open.set()
        assert (await long).user_id == "long"
    together = server.requests.pop()
    assert server.requests == [["long"], ["hold"]]
    # Threads may start in another order than they were created.
    assert (sorted(together, reverse=True) if kind == "threads" else together) == ["short", "long"]


async def test_a_cancelled_get_does_not_cancel_the_others() -> None:
    async with held("asyncio") as (server, reader, first):
        gets = [reader.get(f"u{number}") for number in range(3)]
        await server.until_asked(2)
        gets[1].cancel()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gets[1]
        await eventually(lambda: server.ended > 0)  # no caller waits for the first call
        assert server.ended == 1
        server.open.set()
        assert [(await gets[0]).user_id, (await gets[2]).user_id] == ["u0", "u2"]


async def test_a_call_without_callers_is_cancelled() -> None:
    async with held("asyncio", timeout=60) as (server, reader, first):
        gets = [reader.get("ada"), reader.get("bob", timeout=1)]
        await server.until_asked(2)
        first.cancel()
        gets[0].cancel()
        await eventually(lambda: server.ended == 1)
        assert isinstance((await asyncio.gather(*gets, return_exceptions=True))[1], DeadlineExceededError)
        await eventually(lambda: server.ended == 2)


async def test_a_call_that_hangs_does_not_delay_other_gets(kind: str) -> None:
    async with held(kind) as (server, reader, first):
        later = reader.get("later")
        await server.until_asked(2)
        assert not first.done()
        server.open.set()
        await asyncio.gather(first, later)


@pytest.mark.usefixtures("patient")
async def test_a_retried_error_is_retried_for_each_get(kind: str) -> None:
    async with held(kind) as (server, reader, first):
        server.failures = [Refusal(0), Refusal(0)]
        gets = [reader.get(f"u{number}") for number in range(20)]
        await reader.until_waiting(20)
        server.open.set()
        await asyncio.gather(first, *gets)
        assert server.failures == []


@pytest.mark.usefixtures("patient")
async def test_each_get_gets_an_error_of_its_own(kind: str) -> None:
    async with held(kind, timeout=1) as (server, reader, first):
        server.failures = [Refusal(60)]  # the service suggests a retry after the deadline
        gets = [reader.get(f"u{number}") for number in range(3)]
        await reader.until_waiting(3)
        server.open.set()
        await first
        errors = await asyncio.gather(*gets, return_exceptions=True)
        assert [getattr(error, "reason", error) for error in errors] == ["STORE_UNAVAILABLE"] * 3
        assert len({id(error) for error in errors}) == 3
        assert all(len(getattr(error, "__notes__", [])) == 1 for error in errors)


@pytest.mark.usefixtures("patient")
async def test_after_another_error_each_get_makes_its_own_call(kind: str) -> None:
    async with held(kind) as (server, reader, first):
        failure = Refusal(0)
        failure.code, failure.details = grpc.StatusCode.PERMISSION_DENIED, b""
        server.failures = [failure]
        gets = [reader.get(user_id) for user_id in ("ada", "bob")]
        await reader.until_waiting(2)
        server.open.set()
        await asyncio.gather(first, *gets)
    assert sorted(server.requests[2:]) == [["ada"], ["bob"]]


@pytest.mark.usefixtures("patient")
async def test_gets_share_calls_only_with_the_same_token_and_metadata(kind: str) -> None:
    async with held(kind, token="one") as (server, reader, first):
        root = reader.manager
        relatives = {
            "timeout": root.with_options(timeout=60, retries=1),
            "same": root.with_options(timeout=60).with_options(token="one"),
            "other": root.with_options(token="two"),
            "too": root.with_options(metadata=[("tenant", "a")]).with_options(token="two", metadata=[("tenant", "a")]),
            "again": root.with_options(token="two", metadata=[("tenant", "a")], timeout=9),
        }
        # Each group has a running call, so that further gets wait.
        gets = [first, *map(reader.of(relatives["other"]).get, ["second"]), reader.of(relatives["too"]).get("third")]
        await server.until_asked(3)
        gets += [reader.of(manager).get(name) for name, manager in relatives.items()]
        await reader.until_waiting(2)
        await eventually(lambda: all(waiting(manager) for manager in relatives.values()))
        server.open.set()
        await asyncio.gather(*gets)
    assert sorted(map(sorted, server.requests[3:])) == [["again", "too"], ["other"], ["same", "timeout"]]
    for user_ids, headers in zip(server.requests, server.headers, strict=True):
        sent = dict(headers)
        token, tenant = ("one", None) if {*user_ids} & {"first", "same"} else ("two", None)
        if {*user_ids} & {"third", "too"}:
            tenant = "a"
        assert (sent["authorization"], sent.get("tenant")) == (f"Bearer {token}", tenant)


@pytest.mark.usefixtures("patient")
async def test_closing_the_manager_ends_gets_that_wait(kind: str) -> None:
    async with held(kind) as (_, reader, first):
        later = reader.get("later")
        await reader.until_waiting(1)
        await reader.close()
        for get in (first, later):
            with pytest.raises(ManagerClosedError):
                await get


async def test_a_manager_without_references_closes_its_connection(kind: str) -> None:
    async with serve(Users()) as address:
        reader = Reader(kind, address)
        await reader.get_all("ada", "bob")
        gc.collect()
        gc.disable()
        try:
            connection = weakref.ref(reader.manager._connection)
            reader.manager = None
            await asyncio.sleep(0.1)
            assert connection() is None
        finally:
            gc.enable()


def test_another_event_loop_is_rejected(service: Service) -> None:
    manager = UserManager(service.address, share_reads=True)
    with asyncio.Runner() as runner, asyncio.Runner() as other:
        with pytest.raises(UserNotFoundError):
            runner.run(manager.get("ada"))
        with pytest.raises(ManagerUnusableError):
            other.run(manager.get("ada"))
        runner.run(manager.close())


def calls(service: Service) -> list[str]:
    """Returns the methods of the calls in the service's log."""
    return [str(record["method"]) for record in service.log_lines_with('"method"')]


async def test_results_and_errors_of_the_real_service(kind: str, service: Service) -> None:
    reader = Reader(kind, service.address)
    try:
        names = [f"user-{number}" for number in range(40)]
        async with UserManager(service.address) as writer:
            for name in names:
                await writer.add(user_id=name, metadata={"name": name})
            alone = [await asyncio.gather(writer.get(name), return_exceptions=True) for name in ("none", " x", "")]
        before = len(calls(service))
        found = await reader.get_all(*names, "none", " x", "", *names)
        expected = [*names, *(error for [error] in alone), *names]
        for got, wanted in zip(found, expected, strict=True):
            if isinstance(wanted, str):
                assert isinstance(got, User)
                assert (got.user_id, got.metadata) == (wanted, {"name": wanted})
            else:
                assert isinstance(got, UserServiceError)
                assert isinstance(wanted, UserServiceError)
                assert (type(got), got.code, got.reason, got.message) == (
                    type(wanted),
                    wanted.code,
                    wanted.reason,
                    wanted.message,
                )
                if isinstance(wanted, InvalidArgumentError):
                    assert isinstance(got, InvalidArgumentError)
                    assert got.violations == wanted.violations
        made = until(lambda: calls(service)[before:])
        assert until(lambda: [method for method in calls(service)[before:] if "BatchGetUsers" in method])
        assert len(made) < 50
    finally:
        await reader.close()


async def test_gets_of_different_views_share_no_call(kind: str, service: Service) -> None:
    reader = Reader(kind, service.address)
    try:
        async with UserManager(service.address) as writer:
            for name in ("ada", "bob"):
                await writer.add(user_id=name, email="e", metadata={"k": 1})
        views = [None, "FULL", "BASIC", "ID"] * 10
        gets = [reader.get(name, view=view) for view in views for name in ("ada", "bob")]
        found = [(user.user_id, user.email, user.metadata) for user in await asyncio.gather(*gets)]
        full = [("ada", "e", {"k": 1}), ("bob", "e", {"k": 1})]
        assert found == [*full, *full, ("ada", "e", {}), ("bob", "e", {}), ("ada", "", {}), ("bob", "", {})] * 10
    finally:
        await reader.close()


@pytest.mark.long
async def test_gets_continue_after_a_restart(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    readers = [Reader(kind, listen, timeout=30) for kind in ("asyncio", "threads")]
    is_over = False

    async def call(reader: Reader, number: int) -> None:
        while not is_over:
            user_id = f"u{number % 10}"
            assert (await reader.get(user_id)).user_id == user_id
            number += 1

    with Service(data_dir=tmp_path, listen=listen) as service:
        async with UserManager(listen) as writer:
            await asyncio.gather(*(writer.add(user_id=f"u{number}") for number in range(10)))
        callers = [asyncio.ensure_future(call(reader, number)) for number in range(8) for reader in readers]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(service.kill)
    with await asyncio.to_thread(lambda: Service(data_dir=tmp_path, listen=listen)):
        for reader in readers:
            await reader.get("u1")
        is_over = True
        await asyncio.gather(*callers)
        for reader in readers:
            await reader.close()
