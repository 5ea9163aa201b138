from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from userservice import InternalError, SessionManager, UserManager, UserPage
from userservice._chunks import ChunkReader
from userservice.v1 import session_service_pb2, user_service_pb2
from userservice.v1.user_pb2 import User

if TYPE_CHECKING:
    from userservice._connection import Connection

RPCS = {
    f"/{service.full_name}/{method.name}"
    for module in (user_service_pb2, session_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


class Recorder:
    """Replaces a connection: responds to every call with the requested record, and records the requests."""

    def __init__(self, *stream: bytes) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.stream = list(stream)
        self.deadlines = 0

    def attempts(self, _timeout: float | None) -> Attempts:
        self.deadlines += 1
        return Attempts()

    async def call(self, method: Any, request: Any, _attempts: object) -> Any:
        self.sent.append((method.path, request))
        answer = method.response()
        if "user" in answer.DESCRIPTOR.fields_by_name:
            answer.user.user_id = request.user_id
        if "session" in answer.DESCRIPTOR.fields_by_name:
            answer.session.user_id, answer.session.session_id = request.user_id, request.session_id
        if "missing_user_ids" in answer.DESCRIPTOR.fields_by_name:
            answer.missing_user_ids.extend(request.user_ids)
        return answer

    async def open_stream(self, method: Any, request: Any, _attempts: object) -> Recorder:
        self.sent.append((method.path, request))
        return self

    async def read(self, _call: object, _attempts: object) -> bytes:
        return self.stream.pop(0) if self.stream else b""

    async def open_exchange(self, method: Any, _attempts: object) -> Recorder:
        self.sent.append((method.path, None))
        return self

    async def write(self, _call: object, _encoded: bytes, _attempts: object) -> None:
        pass

    async def end(self, _call: object) -> None:
        pass

    async def read_status(self, _call: object) -> None:
        pass

    def cancel(self) -> None:
        pass


class Attempts:
    """Replaces the retries of a call, and makes none."""

    async def pause(self, error: Exception, cause: BaseException | None) -> None:
        raise error from cause


def record(manager: UserManager | SessionManager) -> list[tuple[str, Any]]:
    recorder = Recorder()
    manager._connection = recorder  # type: ignore[assignment]
    return recorder.sent


async def test_every_rpc_has_a_method() -> None:
    users, sessions = UserManager(), SessionManager()
    sent = record(users)
    await users.add({"user_id": "u"})
    await users.get("u")
    await users.update({"user_id": "u"})
    await users.delete("u")
    await users.list()
    await users.plan_user_scan()
    await users.batch_get(["u"])
    await users.get_sessions("u")
    await users.import_users([])
    await users.get_import("i")
    await users.count()
    await users.find(["e"])
    assert [chunk async for chunk in users.list_chunked()] == []
    with pytest.raises(InternalError):  # no token
        await anext(users.watch())
    sent += (more := record(sessions))
    await sessions.add({"user_id": "u", "session_id": "s"})
    await sessions.get("u", "s")
    await sessions.update({"user_id": "u", "session_id": "s"})
    await sessions.delete("u", "s")
    await sessions.list("u")
    await sessions.touch("u", "s")
    await sessions.revoke("u")
    assert {path for path, _ in sent + more} == RPCS


async def test_every_write_has_its_own_request_id() -> None:
    users = UserManager()
    sent = record(users)
    await users.add(user_id="u")
    await users.update(user_id="u")
    await users.delete("u")
    await users.delete("u", request_id="mine")
    names = [request.request_id for _, request in sent]
    assert all(names)
    assert len(set(names)) == 4
    assert names[-1] == "mine"


def chunk(*ids: int, next_cursor: int) -> bytes:
    users = [User(id=number) for number in ids]
    return user_service_pb2.ListUsersChunkedResponse(users=users, next_cursor=next_cursor).SerializeToString()


async def read_all(cursor: int, *stream: bytes) -> list[UserPage]:
    connection: Connection = Recorder(*stream)  # type: ignore[assignment]
    reader = ChunkReader(connection, {"chunk_size": 100, "cursor": cursor}, None)
    pages = []
    while (page := await reader.next_chunk()) is not None:
        pages.append(page)
    return pages


async def test_chunks_are_yielded_and_empty_chunks_are_skipped() -> None:
    pages = await read_all(4, chunk(5, 6, next_cursor=6), chunk(next_cursor=9), chunk(10, next_cursor=0))
    assert [[user.id for user in page] for page in pages] == [[5, 6], [10]]
    assert [page.next_cursor for page in pages] == [6, 0]


@pytest.mark.parametrize(("user_filter", "deadlines"), [(None, 2), ("email = 'x'", 5)])
async def test_with_a_filter_an_empty_chunk_starts_a_new_deadline(user_filter: str | None, deadlines: int) -> None:
    """The service may examine many users for a chunk without users."""
    recorder = Recorder(*(chunk(next_cursor=cursor) for cursor in (1, 2, 3)), chunk(5, next_cursor=0))
    connection: Connection = recorder  # type: ignore[assignment]
    reader = ChunkReader(connection, {"chunk_size": 100, "filter": user_filter}, None)
    assert await reader.next_chunk() is not None
    assert recorder.deadlines == deadlines


@pytest.mark.parametrize(
    "stream",
    [
        [chunk(4, 5, next_cursor=5)],
        [chunk(6, 5, next_cursor=6)],
        [chunk(5, 7, 6, 8, next_cursor=8)],
        [chunk(5, 6, 6, 7, next_cursor=7)],
        [chunk(5, 6, next_cursor=6), chunk(6, 7, next_cursor=7)],
        [chunk(5, 6, next_cursor=5)],
        [chunk(next_cursor=4)],
        [b"\xff"],
    ],
)
async def test_chunks_that_go_back_are_rejected(stream: list[bytes]) -> None:
    with pytest.raises(InternalError):
        await read_all(4, *stream)
