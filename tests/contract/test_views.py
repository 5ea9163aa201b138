"""Views of many users; cases/views.json contains the other cases."""

from collections.abc import Awaitable

import grpc
import pytest
from google.protobuf.message import Message
from harness.connections import Stubs
from harness.failures import failure_of
from harness.population import fill
from harness.stores import Store

from userservice.v1 import session_service_pb2 as session_messages
from userservice.v1 import user_service_pb2 as messages
from userservice.v1.view_pb2 import View

UNKNOWN: "View.ValueType" = 99  # type: ignore[assignment]
LARGE, MANY = 60_000, 400  # 23 MiB, of which the last 7 MiB take several reads


async def test_a_response_ends_after_16_mib_of_stored_users(stubs: Stubs, store: Store) -> None:
    stored = fill(store, [f"u{number}" for number in range(MANY)], [LARGE] * MANY)
    expected = [(user.user_id, user.id) for user in stored.values()]
    request = messages.ListUsersChunkedRequest(chunk_size=10_000, view=View.VIEW_ID)
    chunks = [chunk async for chunk in stubs.users.ListUsersChunked(request, timeout=30)]
    assert [(user.user_id, user.id) for chunk in chunks for user in chunk.users] == expected
    assert [bool(chunk.next_cursor) for chunk in chunks] == [True, False]

    page = await stubs.users.ListUsers(messages.ListUsersRequest(limit=1000, view=View.VIEW_BASIC))
    assert 200 < len(page.users) < MANY
    assert page.next_cursor == page.users[-1].id
    rest = await stubs.users.ListUsers(
        messages.ListUsersRequest(limit=1000, cursor=page.next_cursor, view=View.VIEW_BASIC)
    )
    assert [user.user_id for user in [*page.users, *rest.users]] == list(stored)
    assert (rest.next_cursor, rest.total_size) == (0, MANY)


async def test_an_unknown_view_is_an_error(stubs: Stubs) -> None:
    calls: list[Awaitable[Message]] = [
        stubs.users.GetUser(messages.GetUserRequest(user_id="ada", view=UNKNOWN)),
        stubs.users.ListUsers(messages.ListUsersRequest(view=UNKNOWN)),
        stubs.users.BatchGetUsers(messages.BatchGetUsersRequest(user_ids=["ada"], view=UNKNOWN)),
        stubs.users.GetUserSessions(messages.GetUserSessionsRequest(user_id="ada", view=UNKNOWN)),
        stubs.sessions.GetSession(session_messages.GetSessionRequest(user_id="ada", session_id="s", view=UNKNOWN)),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        failure = failure_of(refused.value)
        assert (failure.reason, failure.fields) == ("INVALID_FIELD", ["view"])
        assert "VIEW_FULL" in failure.message
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.users.ListUsersChunked(messages.ListUsersChunkedRequest(view=UNKNOWN)).read()
    assert failure_of(refused.value).fields == ["view"]
