"""`UserManager`: users and their sessions, for programs on asyncio."""
# ruff: noqa: ASYNC109 - the timeout covers several attempts and travels to the service as a deadline

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, Unpack, overload

from userservice import _methods as rpc
from userservice._answers import check_batch, check_cursor, check_user
from userservice._chunks import ChunkReader
from userservice._manager import Manager
from userservice.models import SessionPage, User, UserBatch, UserPage
from userservice.requests import (
    AddUserFields,
    AddUserOptions,
    UncheckedFields,
    UpdateUserFields,
    UpdateUserOptions,
    build_request,
    merge_fields,
    with_request_id,
)
from userservice.session_manager import get_session_page

_LARGEST_PAGE = 1000
"""What the service makes of any larger limit."""


class UserManager(Manager):
    """Adds, reads, changes, removes and lists users.

    Every failed call raises `UserServiceError` or one of its subclasses; only mistakes in the calling code raise
    TypeError (an argument that is no mapping, a field given twice) or ValueError (an invalid timeout). All calls have a
    deadline and are retried while the service is unavailable; writes carry a request_id, so that an attempt whose
    answer was lost is applied once. `timeout` is in seconds and covers all attempts; the default is the manager's own.

        async with UserManager("localhost:50051") as user_manager:
            user = await user_manager.get("user123")
    """

    @overload
    async def add(
        self,
        user: AddUserFields | UncheckedFields,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[AddUserOptions],
    ) -> User: ...
    @overload
    async def add(
        self,
        user: UncheckedFields | None = None,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[AddUserFields],
    ) -> User: ...
    async def add(
        self, user: Mapping[str, Any] | None = None, /, *, timeout: float | None = None, **fields: Any
    ) -> User:
        """Adds a user.

        Args:
            user: The fields by name: user_id (required), email, first_name, last_name, metadata, request_id. See
                `AddUserFields` for the limits.
            timeout: Seconds that the call may take.
            **fields: The same as keyword arguments; both ways may be used together.

        Returns:
            The user as it was stored.

        Raises:
            InvalidArgumentError: If a field is bad or unknown; `violations` has all of them.
            UserAlreadyExistsError: If there is a user of that user_id.
            RequestIdReusedError: If the request_id was used for a different request.
            TypeError: If `user` is no mapping, or a field is given twice.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.ADD_USER.request, with_request_id(merge_fields(user, fields)))
        message = (await self._connection.call(rpc.ADD_USER, request, attempts)).user
        check_user(message, request.user_id)
        return User.wrap(message)

    async def get(self, user_id: str, *, timeout: float | None = None) -> User:
        """Returns a user.

        Raises:
            UserNotFoundError: If there is none of that user_id.
            InvalidArgumentError: If the user_id is bad.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.GET_USER.request, {"user_id": user_id})
        message = (await self._connection.call(rpc.GET_USER, request, attempts)).user
        check_user(message, request.user_id)
        return User.wrap(message)

    @overload
    async def update(
        self,
        user: UpdateUserFields | UncheckedFields,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[UpdateUserOptions],
    ) -> User: ...
    @overload
    async def update(
        self,
        user: UncheckedFields | None = None,
        /,
        *,
        timeout: float | None = None,
        **fields: Unpack[UpdateUserFields],
    ) -> User: ...
    async def update(
        self, user: Mapping[str, Any] | None = None, /, *, timeout: float | None = None, **fields: Any
    ) -> User:
        """Changes a user. What is absent stays as it is, and metadata is merged, with None removing a key.

        Args:
            user: The fields by name: user_id (required), email, first_name, last_name, metadata, update_mask, etag,
                request_id. See `UpdateUserFields`.
            timeout: Seconds that the call may take.
            **fields: The same as keyword arguments; both ways may be used together.

        Returns:
            The user after the update.

        Raises:
            InvalidArgumentError: If a field is bad or unknown; `violations` has all of them.
            UserNotFoundError: If there is none of that user_id.
            EtagMismatchError: If an etag was given and is not the current one.
            UpdateConflictError: If too many others wrote the user at the same time.
            RequestIdReusedError: If the request_id was used for a different request.
            TypeError: If `user` is no mapping, or a field is given twice.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.UPDATE_USER.request, with_request_id(merge_fields(user, fields)))
        message = (await self._connection.call(rpc.UPDATE_USER, request, attempts)).user
        check_user(message, request.user_id)
        return User.wrap(message)

    async def delete(
        self, user_id: str, *, etag: str | None = None, request_id: str | None = None, timeout: float | None = None
    ) -> None:
        """Removes a user and all its sessions.

        Args:
            user_id: Name of the user.
            etag: The etag as the caller knows it; if it is not the current one, nothing is removed.
            request_id: A UUID that names this attempt; one is made if absent.
            timeout: Seconds that the call may take.

        Raises:
            UserNotFoundError: If there is none of that user_id.
            EtagMismatchError: If an etag was given and is not the current one.
            UpdateConflictError: If too many others wrote the user at the same time.
            RequestIdReusedError: If the request_id was used for a different request.
            InvalidArgumentError: If an argument is bad.
        """
        attempts = self._connection.attempts(timeout)
        fields = with_request_id({"user_id": user_id, "etag": etag, "request_id": request_id})
        await self._connection.call(rpc.DELETE_USER, build_request(rpc.DELETE_USER.request, fields), attempts)

    async def list(self, limit: int = 100, cursor: int = 0, *, timeout: float | None = None) -> UserPage:
        """Returns one page of users in the order of their ids.

        Args:
            limit: The most users to return, at most 1000. A page closes early at 1 MiB.
            cursor: The `next_cursor` of an earlier page; 0 for the beginning.
            timeout: Seconds that the call may take.

        Returns:
            A list of User with `next_cursor`, which is 0 at the end, and `total_size`.

        Raises:
            InvalidArgumentError: If an argument is negative or no integer.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.LIST_USERS.request, {"limit": limit, "cursor": cursor})
        page = await self._connection.call(rpc.LIST_USERS, request, attempts)
        users = User.wrap_page(page.users, request.cursor)
        check_cursor(users, request.cursor, page.next_cursor, page.total_size)
        return UserPage(users, next_cursor=page.next_cursor, total_size=page.total_size)

    async def list_chunked(
        self, chunk_size: int = 100, cursor: int = 0, *, timeout: float | None = None
    ) -> AsyncGenerator[UserPage, None]:
        """Goes through all users in the order of their ids, a chunk at a time, up to the newest one at its start.

        A user that exists the whole time comes exactly once, whatever is written meanwhile, and though the connection
        is cut or the server restarted: then it goes on behind the last chunk by itself. Leaving the loop cancels the
        RPC.

        Args:
            chunk_size: The most users in a chunk, at most 10 000. A chunk closes early at 1 MiB.
            cursor: Where to start: the `next_cursor` of a chunk of an earlier run; 0 for the beginning.
            timeout: Seconds to wait for each chunk, reconnecting included. The time that the loop's body takes does
                not count.

        Yields:
            Lists of User, never empty, with `next_cursor`, which is 0 in the last one, and `total_size`.

        Raises:
            InvalidArgumentError: If an argument is negative or no integer.
            UnavailableError: If the service stayed away for the whole timeout.
            DeadlineExceededError: If the service was there but no chunk came.
        """
        reader = ChunkReader(self._connection, chunk_size, cursor, timeout)
        try:
            while (chunk := await reader.next_chunk()) is not None:
                yield chunk
        finally:
            # Since grpcio 1.83 a stream that is merely dropped runs on (grpc/grpc#43462).
            reader.cancel()

    async def batch_get(self, user_ids: Iterable[str], *, timeout: float | None = None) -> UserBatch:
        """Returns many users by name.

        Args:
            user_ids: 1 to 1000 names. One given twice is answered twice.
            timeout: Seconds that the call may take.

        Returns:
            A list of the users that exist, in the order of the request, with `missing_user_ids`.

        Raises:
            InvalidArgumentError: If there are none or too many names, or a bad one.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.BATCH_GET_USERS.request, {"user_ids": user_ids})
        found = await self._connection.call(rpc.BATCH_GET_USERS, request, attempts)
        check_batch(found.users, found.missing_user_ids, request.user_ids)
        return UserBatch(User.wrap_all(found.users), missing_user_ids=found.missing_user_ids)

    async def get_sessions(self, user_id: str, *, timeout: float | None = None) -> SessionPage:
        """Returns all sessions of a user in the order of their ids, however many pages that takes.

        Args:
            user_id: Name of the user.
            timeout: Seconds that all the pages together may take.

        Returns:
            A list of Session, empty if there is none.

        Raises:
            UserNotFoundError: If there is no user of that user_id.
            InvalidArgumentError: If the user_id is bad.
        """
        attempts = self._connection.attempts(timeout)
        sessions = SessionPage()
        cursor = 0
        while True:
            page = await get_session_page(self._connection, user_id, _LARGEST_PAGE, cursor, attempts)
            sessions += page
            if not page.next_cursor:
                sessions.total_size = len(sessions)
                return sessions
            cursor = page.next_cursor

    # The names of the API's documentation.

    def listChunked(  # noqa: N802
        self,
        chunkSize: int = 100,  # noqa: N803
        cursor: int = 0,
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[UserPage, None]:
        """The same as `list_chunked`."""
        return self.list_chunked(chunkSize, cursor, timeout=timeout)

    batchGet = batch_get  # noqa: N815
    getSessions = get_sessions  # noqa: N815
