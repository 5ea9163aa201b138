"""`SessionManager`: adds, reads, updates, deletes and lists the sessions of users."""
# ruff: noqa: ASYNC109 - the timeout covers several attempts and is sent to the service as a deadline

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack, overload

from userservice import _methods as rpc
from userservice._answers import check_count, check_cursor, check_owner, check_session
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
    View,
    build_request,
    merge_fields,
    with_request_id,
)


class SessionManager(Manager):
    """Adds, reads, updates, deletes and lists the sessions of users.

    Errors, deadlines and retries are the same as in `UserManager`. Every method raises UserNotFoundError if the
    user does not exist.
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
            session: The fields by name: user_id and session_id (required), metadata, expire_time, ttl, idle_ttl,
                request_id. See `AddSessionFields` for the limits.
            timeout: Seconds that the call may take.
            **fields: The same fields as keyword arguments. A call may use both forms.

        Returns:
            The stored session.

        Raises:
            InvalidArgumentError: If a field is invalid or unknown; `violations` lists these fields.
            UserNotFoundError: If the user does not exist.
            SessionAlreadyExistsError: If the user has a session with this session_id that has not expired.
            SessionLimitError: If the user has 10 000 sessions.
            RequestIdReusedError: If the request_id was already used for a different request.
            TypeError: If `session` is not a mapping, or a field is given twice.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.ADD_SESSION.request, with_request_id(merge_fields(session, fields)))
        message = (await self._connection.call(rpc.ADD_SESSION, request, attempts)).session
        check_session(message, request.user_id, request.session_id)
        return Session.wrap(message)

    async def get(
        self, user_id: str, session_id: str, *, view: View | None = None, timeout: float | None = None
    ) -> Session:
        """Returns a session.

        Args:
            user_id: The user_id of the session's user.
            session_id: The session_id of the session.
            view: The fields to return: "FULL" (the default), "BASIC" (without metadata) or "ID" (keys and id).
            timeout: Seconds that the call may take.

        Raises:
            UserNotFoundError: If the user does not exist.
            SessionNotFoundError: If the user has no session with this session_id.
            InvalidArgumentError: If an argument is invalid.
        """
        attempts = self._connection.attempts(timeout)
        fields = {"user_id": user_id, "session_id": session_id, "view": view}
        request = build_request(rpc.GET_SESSION.request, fields)
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
        """Updates the metadata of a session.

        The metadata is merged: a key with the value None is removed. If update_mask contains `metadata` or `*`, the
        metadata is replaced.

        Args:
            session: The fields by name: user_id and session_id (required), metadata, update_mask, etag, request_id.
                See `UpdateSessionFields`.
            timeout: Seconds that the call may take.
            **fields: The same fields as keyword arguments. A call may use both forms.

        Returns:
            The session after the update.

        Raises:
            InvalidArgumentError: If a field is invalid or unknown; `violations` lists these fields.
            UserNotFoundError: If the user does not exist.
            SessionNotFoundError: If the user has no session with this session_id.
            EtagMismatchError: If an etag is given and is not the current etag.
            UpdateConflictError: If there were too many concurrent writes of the session.
            RequestIdReusedError: If the request_id was already used for a different request.
            TypeError: If `session` is not a mapping, or a field is given twice.
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
        """Deletes a session.

        Args:
            user_id: The user_id of the session's user.
            session_id: The session_id of the session.
            etag: The expected etag. If it is not the current etag, nothing is deleted.
            request_id: The idempotency key of this write, a UUID; generated if absent.
            timeout: Seconds that the call may take.

        Raises:
            UserNotFoundError: If the user does not exist.
            SessionNotFoundError: If the user has no session with this session_id.
            EtagMismatchError: If an etag is given and is not the current etag.
            UpdateConflictError: If there were too many concurrent writes of the session.
            RequestIdReusedError: If the request_id was already used for a different request.
            InvalidArgumentError: If an argument is invalid.
        """
        attempts = self._connection.attempts(timeout)
        fields = with_request_id({"user_id": user_id, "session_id": session_id, "etag": etag, "request_id": request_id})
        await self._connection.call(rpc.DELETE_SESSION, build_request(rpc.DELETE_SESSION.request, fields), attempts)

    async def touch(
        self, user_id: str, session_id: str, *, request_id: str | None = None, timeout: float | None = None
    ) -> Session:
        """Reports that a session is in use, which extends it by its `idle_ttl`, at most to its `max_expire_time`.

        A touch within a tenth of `idle_ttl` (at most 60 s) after `last_seen_at` changes nothing, so a program may touch
        a session with every request of its user. `etag` and `updated_at` do not change.

        Args:
            user_id: The user_id of the session's user.
            session_id: The session_id of the session.
            request_id: The idempotency key of this write, a UUID; generated if absent.
            timeout: Seconds that the call may take.

        Returns:
            The session after the touch.

        Raises:
            UserNotFoundError: If the user does not exist.
            SessionNotFoundError: If the user has no session with this session_id, or if the session has expired.
            UpdateConflictError: If there were too many concurrent writes of the session.
            RequestIdReusedError: If the request_id was already used for a different request.
            InvalidArgumentError: If an argument is invalid.
        """
        attempts = self._connection.attempts(timeout)
        fields = with_request_id({"user_id": user_id, "session_id": session_id, "request_id": request_id})
        request = build_request(rpc.TOUCH_SESSION.request, fields)
        message = (await self._connection.call(rpc.TOUCH_SESSION, request, attempts)).session
        check_session(message, request.user_id, request.session_id)
        return Session.wrap(message)

    async def revoke(
        self,
        user_id: str,
        *,
        except_session_id: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Deletes all sessions of a user, or all except one, in one step.

        Args:
            user_id: The user_id of the user.
            except_session_id: The session_id of the session to keep; None: all sessions are deleted.
            request_id: The idempotency key of this write, a UUID; generated if absent.
            timeout: Seconds that the call may take.

        Returns:
            The number of deleted sessions, without sessions that had expired before.

        Raises:
            UserNotFoundError: If the user does not exist.
            RequestIdReusedError: If the request_id was already used for a different request.
            InvalidArgumentError: If an argument is invalid.
        """
        attempts = self._connection.attempts(timeout)
        fields = with_request_id({"user_id": user_id, "except_session_id": except_session_id, "request_id": request_id})
        request = build_request(rpc.REVOKE_USER_SESSIONS.request, fields)
        return check_count((await self._connection.call(rpc.REVOKE_USER_SESSIONS, request, attempts)).revoked_count)

    async def list(
        self,
        user_id: str,
        limit: int = 100,
        cursor: int = 0,
        *,
        include_expired: bool = False,
        view: View | None = None,
        timeout: float | None = None,
    ) -> SessionPage:
        """Returns one page of the sessions of a user, ordered by id; `UserManager.get_sessions` returns all sessions.

        Args:
            user_id: The user_id of the user.
            limit: The maximum number of sessions, at most 1000. A page ends early at 1 MiB.
            cursor: The `next_cursor` of an earlier page; 0 starts at the beginning.
            include_expired: Whether to include expired sessions that the service has not removed yet.
            view: The fields to return: "FULL" (the default), "BASIC" (without metadata) or "ID" (keys and id).
            timeout: Seconds that the call may take.

        Returns:
            A list of Session with `next_cursor`, which is 0 at the end, and `total_size`.

        Raises:
            UserNotFoundError: If the user does not exist.
            InvalidArgumentError: If an argument is invalid.
        """
        attempts = self._connection.attempts(timeout)
        fields = {
            "user_id": user_id,
            "limit": limit,
            "cursor": cursor,
            "view": view,
            "include_expired": include_expired,
        }
        return await get_session_page(self._connection, fields, attempts)


async def get_session_page(connection: Connection, fields: Mapping[str, object], attempts: Attempts) -> SessionPage:
    """Fetches one page of the sessions of a user; see `SessionManager.list`.

    Args:
        connection: The connection of the manager.
        fields: The fields of the request by name.
        attempts: The attempts of the call.
    """
    request = build_request(rpc.GET_USER_SESSIONS.request, fields)
    page = await connection.call(rpc.GET_USER_SESSIONS, request, attempts)
    check_owner(page.sessions, request.user_id)
    sessions = Session.wrap_page(page.sessions, request.cursor)
    check_cursor(sessions, request.cursor, page.next_cursor, page.total_size)
    return SessionPage(sessions, next_cursor=page.next_cursor, total_size=page.total_size)
