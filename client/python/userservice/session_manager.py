"""`SessionManager`: the sessions of users, for programs on asyncio."""
# ruff: noqa: ASYNC109 - the timeout covers several attempts and travels to the service as a deadline

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack, overload

from userservice import _methods as rpc
from userservice._answers import check_cursor, check_owner, check_session
from userservice._connection import Connection
from userservice._manager import Manager
from userservice._retry import Attempts
from userservice.models import Session, SessionPage
from userservice.requests import (
    AddSessionFields,
    AddSessionOptions,
    UncheckedFields,
    UpdateSessionFields,
    UpdateSessionOptions,
    build_request,
    merge_fields,
    with_request_id,
)


class SessionManager(Manager):
    """Adds, reads, changes, removes and lists the sessions of users.

    Errors, deadlines and retries are those of `UserManager`. Every method raises UserNotFoundError if there is no such
    user.
    """

    @overload
    async def add(
        self,
        session: AddSessionFields | UncheckedFields,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[AddSessionOptions],
    ) -> Session: ...
    @overload
    async def add(
        self,
        session: UncheckedFields | None = None,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[AddSessionFields],
    ) -> Session: ...
    async def add(
        self, session: Mapping[str, Any] | None = None, /, *, timeout: float | None = None, **fields: Any
    ) -> Session:
        """Adds a session to a user.

        Args:
            session: The fields by name: user_id and session_id (required), metadata, request_id. See
                `AddSessionFields` for the limits.
            timeout: Seconds that the call may take.
            **fields: The same as keyword arguments; both ways may be used together.

        Returns:
            The session as it was stored.

        Raises:
            InvalidArgumentError: If a field is bad or unknown; `violations` has all of them.
            UserNotFoundError: If there is no such user.
            SessionAlreadyExistsError: If the user has a session of that session_id.
            RequestIdReusedError: If the request_id was used for a different request.
            TypeError: If `session` is no mapping, or a field is given twice.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.ADD_SESSION.request, with_request_id(merge_fields(session, fields)))
        message = (await self._connection.call(rpc.ADD_SESSION, request, attempts)).session
        check_session(message, request.user_id, request.session_id)
        return Session.wrap(message)

    async def get(self, user_id: str, session_id: str, *, timeout: float | None = None) -> Session:
        """Returns a session.

        Raises:
            UserNotFoundError: If there is no such user.
            SessionNotFoundError: If the user has no session of that session_id.
            InvalidArgumentError: If an argument is bad.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.GET_SESSION.request, {"user_id": user_id, "session_id": session_id})
        message = (await self._connection.call(rpc.GET_SESSION, request, attempts)).session
        check_session(message, request.user_id, request.session_id)
        return Session.wrap(message)

    @overload
    async def update(
        self,
        session: UpdateSessionFields | UncheckedFields,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[UpdateSessionOptions],
    ) -> Session: ...
    @overload
    async def update(
        self,
        session: UncheckedFields | None = None,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[UpdateSessionFields],
    ) -> Session: ...
    async def update(
        self, session: Mapping[str, Any] | None = None, /, *, timeout: float | None = None, **fields: Any
    ) -> Session:
        """Changes a session's metadata: merged, with None removing a key, or replaced if update_mask names it.

        Args:
            session: The fields by name: user_id and session_id (required), metadata, update_mask, etag, request_id.
                See `UpdateSessionFields`.
            timeout: Seconds that the call may take.
            **fields: The same as keyword arguments; both ways may be used together.

        Returns:
            The session after the update.

        Raises:
            InvalidArgumentError: If a field is bad or unknown; `violations` has all of them.
            UserNotFoundError: If there is no such user.
            SessionNotFoundError: If the user has no session of that session_id.
            EtagMismatchError: If an etag was given and is not the current one.
            UpdateConflictError: If too many others wrote the session at the same time.
            RequestIdReusedError: If the request_id was used for a different request.
            TypeError: If `session` is no mapping, or a field is given twice.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.UPDATE_SESSION.request, with_request_id(merge_fields(session, fields)))
        message = (await self._connection.call(rpc.UPDATE_SESSION, request, attempts)).session
        check_session(message, request.user_id, request.session_id)
        return Session.wrap(message)

    async def delete(
        self,
        user_id: str,
        session_id: str,
        *,
        etag: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Removes a session.

        Args:
            user_id: The user that the session belongs to.
            session_id: Name of the session.
            etag: The etag as the caller knows it; if it is not the current one, nothing is removed.
            request_id: A UUID that names this attempt; one is made if absent.
            timeout: Seconds that the call may take.

        Raises:
            UserNotFoundError: If there is no such user.
            SessionNotFoundError: If the user has no session of that session_id.
            EtagMismatchError: If an etag was given and is not the current one.
            UpdateConflictError: If too many others wrote the session at the same time.
            RequestIdReusedError: If the request_id was used for a different request.
            InvalidArgumentError: If an argument is bad.
        """
        attempts = self._connection.attempts(timeout)
        fields = with_request_id({"user_id": user_id, "session_id": session_id, "etag": etag, "request_id": request_id})
        await self._connection.call(rpc.DELETE_SESSION, build_request(rpc.DELETE_SESSION.request, fields), attempts)

    async def list(
        self, user_id: str, limit: int = 100, cursor: int = 0, *, timeout: float | None = None
    ) -> SessionPage:
        """Returns one page of the sessions of a user in the order of their ids; `UserManager.get_sessions` has all.

        Args:
            user_id: Name of the user.
            limit: The most sessions to return, at most 1000. A page closes early at 1 MiB.
            cursor: The `next_cursor` of an earlier page; 0 for the beginning.
            timeout: Seconds that the call may take.

        Returns:
            A list of Session with `next_cursor`, which is 0 at the end, and `total_size`.

        Raises:
            UserNotFoundError: If there is no such user.
            InvalidArgumentError: If an argument is bad.
        """
        return await get_session_page(self._connection, user_id, limit, cursor, self._connection.attempts(timeout))


async def get_session_page(
    connection: Connection, user_id: str, limit: int, cursor: int, attempts: Attempts
) -> SessionPage:
    """Fetches one page of the sessions of a user; see `SessionManager.list`."""
    fields = {"user_id": user_id, "limit": limit, "cursor": cursor}
    request = build_request(rpc.GET_USER_SESSIONS.request, fields)
    page = await connection.call(rpc.GET_USER_SESSIONS, request, attempts)
    check_owner(page.sessions, request.user_id)
    sessions = Session.wrap_page(page.sessions, request.cursor)
    check_cursor(sessions, request.cursor, page.next_cursor, page.total_size)
    return SessionPage(sessions, next_cursor=page.next_cursor, total_size=page.total_size)
