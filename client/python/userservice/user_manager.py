"""`UserManager`: adds, reads, updates, deletes and lists users."""
# ruff: noqa: ASYNC109 - the timeout covers several attempts and is sent to the service as a deadline

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, Literal, Unpack, overload

import grpc

from userservice import _methods as rpc
from userservice._answers import check_batch, check_count, check_cursor, check_descending, check_parts, check_user
from userservice._chunks import ChunkReader, each_user
from userservice._connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, Connection
from userservice._import_messages import build_options
from userservice._importing import Importer, read_errors
from userservice._manager import Manager
from userservice._parts import PartsReader, check_scan
from userservice._shared_reads import SharedReads
from userservice._tls import PemSource
from userservice._token import hidden
from userservice._transport import Progress, RowSource, TokenSource
from userservice._watching import WatchReader
from userservice.changes import Changes, OnExpired, WatchKind
from userservice.hooks import OnCall
from userservice.imports import ImportStatus, OnDuplicate
from userservice.models import SessionPage, User, UserBatch, UserPage, UserScanPart
from userservice.requests import (
    AddUserFields,
    AddUserOptions,
    OrderBy,
    UncheckedFields,
    UpdateUserFields,
    UpdateUserOptions,
    View,
    build_request,
    merge_fields,
    with_request_id,
)
from userservice.session_manager import get_session_page

_LARGEST_PAGE = 1000
"""The maximum limit of a page. The service reduces larger limits to it."""


class UserManager(Manager):
    """Adds, reads, updates, deletes and lists users.

    A failed call raises `UserServiceError` or a subclass. Errors in the calling code raise TypeError (an argument that
    is not a mapping, or a field that is given twice) or ValueError (an invalid timeout). Every call has a deadline and
    is retried while the service is unavailable. Every write has a request_id, so a write that is retried because its
    response was lost is applied once. The `timeout` of a call is in seconds and includes all attempts; the default is
    the timeout of the manager.

        async with UserManager("localhost:50051") as user_manager:
            user = await user_manager.get("user123")
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        share_reads: bool = False,
        connections: int = 1,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
        channel_options: Sequence[tuple[str, Any]] = (),
        metadata: Sequence[tuple[str, str | bytes]] = (),
        token: TokenSource | None = None,
        ca: PemSource | None = None,
        cert: PemSource | None = None,
        key: PemSource | None = None,
        allow_insecure_token: bool = False,
        on_call: OnCall | None = None,
        retries: int | None = None,
    ) -> None:
        """Creates a manager. Nothing is sent before the first call.

        Args:
            address: See `SessionManager`, which describes all arguments except `share_reads`.
            share_reads: Send concurrent `get` calls as one BatchGetUsers with at most 100 user_ids. Each `get` has its
                own result, error and deadline. A `get` without concurrent gets is sent as a GetUser. Each user keeps
                the whole response of the shared call in memory; to keep a few users for a long time, keep
                `copy.copy(user)`.
            connections: See `SessionManager`.
            timeout: See `SessionManager`.
            credentials: See `SessionManager`.
            channel_options: See `SessionManager`.
            metadata: See `SessionManager`.
            token: See `SessionManager`.
            ca: See `SessionManager`.
            cert: See `SessionManager`.
            key: See `SessionManager`.
            allow_insecure_token: See `SessionManager`.
            on_call: See `SessionManager`.
            retries: See `SessionManager`.

        Raises:
            TypeError: If an argument has a wrong type; see `SessionManager`.
            ValueError: If an argument is invalid; see `SessionManager`.
            ManagerUnusableError: If gevent or eventlet has patched the process.
        """
        token = hidden(token)  # as in the base class
        super().__init__(
            address,
            connections=connections,
            timeout=timeout,
            credentials=credentials,
            channel_options=channel_options,
            metadata=metadata,
            token=token,
            ca=ca,
            cert=cert,
            key=key,
            allow_insecure_token=allow_insecure_token,
            on_call=on_call,
            retries=retries,
        )
        self._shared_reads = SharedReads(self._connection) if share_reads else None

    def _use(self, connection: Connection) -> None:
        super()._use(connection)
        if self._shared_reads is not None:
            self._shared_reads = SharedReads(connection, self._shared_reads)

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
            **fields: The same fields as keyword arguments. A call may use both forms.

        Returns:
            The stored user.

        Raises:
            InvalidArgumentError: If a field is invalid or unknown; `violations` lists these fields.
            UserAlreadyExistsError: If a user with this user_id exists.
            RequestIdReusedError: If the request_id was already used for a different request.
            TypeError: If `user` is not a mapping, or a field is given twice.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.ADD_USER.request, with_request_id(merge_fields(user, fields)))
        message = (await self._connection.call(rpc.ADD_USER, request, attempts)).user
        check_user(message, request.user_id)
        return User.wrap(message)

    async def get(self, user_id: str, *, view: View | None = None, timeout: float | None = None) -> User:
        """Returns a user.

        Args:
            user_id: The user_id of the user.
            view: The fields to return: "FULL" (the default), "BASIC" (without metadata) or "ID" (user_id and id).
            timeout: Seconds that the call may take.

        Raises:
            UserNotFoundError: If no user has this user_id.
            InvalidArgumentError: If the user_id or the view is invalid.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.GET_USER.request, {"user_id": user_id, "view": view})
        if self._shared_reads is None:
            message = (await self._connection.call(rpc.GET_USER, request, attempts)).user
        else:
            message = await self._shared_reads.get(request, attempts)
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
        """Updates a user. Absent fields keep their values. Metadata is merged: a key with the value None is removed.

        Args:
            user: The fields by name: user_id (required), email, first_name, last_name, metadata, update_mask, etag,
                request_id, allow_missing. See `UpdateUserFields`.
            timeout: Seconds that the call may take.
            **fields: The same fields as keyword arguments. A call may use both forms.

        Returns:
            The user after the update.

        Raises:
            InvalidArgumentError: If a field is invalid or unknown; `violations` lists these fields.
            UserNotFoundError: If no user has this user_id, and `allow_missing` is not set.
            EtagMismatchError: If an etag is given and is not the current etag.
            UpdateConflictError: If there were too many concurrent writes of the user.
            RequestIdReusedError: If the request_id was already used for a different request.
            TypeError: If `user` is not a mapping, or a field is given twice.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.UPDATE_USER.request, with_request_id(merge_fields(user, fields)))
        message = (await self._connection.call(rpc.UPDATE_USER, request, attempts)).user
        check_user(message, request.user_id)
        return User.wrap(message)

    async def delete(
        self, user_id: str, *, etag: str | None = None, request_id: str | None = None, timeout: float | None = None
    ) -> None:
        """Deletes a user and all its sessions.

        Args:
            user_id: The user_id of the user.
            etag: The expected etag. If it is not the current etag, nothing is deleted.
            request_id: The idempotency key of this write, a UUID; generated if absent.
            timeout: Seconds that the call may take.

        Raises:
            UserNotFoundError: If no user has this user_id.
            EtagMismatchError: If an etag is given and is not the current etag.
            UpdateConflictError: If there were too many concurrent writes of the user.
            RequestIdReusedError: If the request_id was already used for a different request.
            InvalidArgumentError: If an argument is invalid.
        """
        attempts = self._connection.attempts(timeout)
        fields = with_request_id({"user_id": user_id, "etag": etag, "request_id": request_id})
        await self._connection.call(rpc.DELETE_USER, build_request(rpc.DELETE_USER.request, fields), attempts)

    async def list(
        self,
        limit: int = 100,
        cursor: int = 0,
        *,
        filter: str | None = None,  # noqa: A002 - the field's name
        order_by: OrderBy | None = None,
        view: View | None = None,
        timeout: float | None = None,
    ) -> UserPage:
        """Returns one page of users in the order of their ids.

        Args:
            limit: The maximum number of users, at most 1000. A page ends early at 1 MiB.
            cursor: The `next_cursor` of an earlier page in the same order; 0 starts at the beginning.
            filter: Selects users by their fields, such as `metadata.plan = "pro" AND email : "@example.org"`; see
                docs/filters.md. A page may then have few users or none and still
                have a `next_cursor`, and `total_size` is 0.
            order_by: "id" (the default), or "id desc": the newest users first.
            view: The fields to return: "FULL" (the default), "BASIC" (without metadata) or "ID" (user_id and id).
            timeout: Seconds that the call may take.

        Returns:
            A list of User with `next_cursor`, which is 0 at the end, and `total_size`.

        Raises:
            InvalidArgumentError: If an argument is invalid.
        """
        attempts = self._connection.attempts(timeout)
        fields = {"limit": limit, "cursor": cursor, "view": view, "order_by": order_by, "filter": filter}
        request = build_request(rpc.LIST_USERS.request, fields)
        page = await self._connection.call(rpc.LIST_USERS, request, attempts)
        if request.order_by.split() == ["id", "desc"]:
            users = User.wrap_all(page.users)
            check_descending(users, request.cursor, page.next_cursor, page.total_size)
        else:
            users = User.wrap_page(page.users, request.cursor)
            check_cursor(users, request.cursor, page.next_cursor, page.total_size)
        return UserPage(users, next_cursor=page.next_cursor, total_size=page.total_size)

    async def list_chunked(
        self,
        chunk_size: int = 100,
        cursor: int = 0,
        *,
        filter: str | None = None,  # noqa: A002 - the field's name
        view: View | None = None,
        parallel: int = 1,
        parts: Iterable[Sequence[int]] | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[UserPage, None]:
        """Reads all users in chunks, ordered by id, up to the newest user at the start of the stream.

        Each user that exists throughout is returned exactly once, regardless of concurrent writes. After a lost
        connection or a restart of the server, the stream resumes after the last chunk. Leaving the loop cancels the
        RPC.

        With `parallel`, several streams read the parts of `plan_user_scan` side by side, which is faster if the store
        has several partitions. Each user is still returned exactly once, and each part resumes by itself. The chunks of
        different parts alternate, so that only the users of one part are ordered by id. To continue in another process,
        keep `remaining` of the last chunk, which has at most 64 parts, and pass it as `parts`:

            async for users in user_manager.list_chunked(1000, parallel=4, parts=remaining):
                ...
                remaining = users.remaining

        Args:
            chunk_size: The maximum number of users per chunk, at most 10 000. A chunk ends early at 1 MiB.
            cursor: The `next_cursor` of a chunk of an earlier stream; 0 starts at the beginning. Must be 0 with
                `parallel` and `parts`.
            filter: Selects users by their fields, such as `metadata.plan = "pro" AND email : "@example.org"`; see
                docs/filters.md. `total_size` is then 0.
            view: The fields to return: "FULL" (the default), "BASIC" (without metadata) or "ID" (user_id and id).
            parallel: The number of streams, from 1 to 64. With more than one, and without `parts`, the call first plans
                the parts.
            parts: Read only these parts: those of `plan_user_scan`, some of them, or the `remaining` of a chunk. An
                empty list yields nothing; None means all users.
            timeout: Seconds to wait for each chunk, including reconnecting. The time that the body of the loop needs
                does not count. With a filter, it is the time to wait for each message of the service, also if no user
                in it matches.

        Yields:
            Lists of User, never empty, with `next_cursor`, which is 0 in the last chunk, and `total_size`. If parts are
            read, also with `part` and `remaining`; `next_cursor` is then 0 in the last chunk of each part.

        Raises:
            InvalidArgumentError: If an argument is invalid.
            UnavailableError: If the service was unavailable for the whole timeout.
            DeadlineExceededError: If the service was available, but no chunk arrived.
        """
        given = check_scan(cursor, parallel, parts)
        fields = {"chunk_size": chunk_size, "cursor": cursor, "view": view, "filter": filter}
        if given is None and parallel > 1:
            given = await self.plan_user_scan(parallel, timeout=timeout)
        reader: ChunkReader | PartsReader
        if given is None:
            reader = ChunkReader(self._connection, fields, timeout)
        else:
            reader = PartsReader(self._connection, fields, timeout, given, parallel)
        try:
            while (chunk := await reader.next_chunk()) is not None:
                yield chunk
        finally:
            # Since grpcio 1.83, a stream that the program drops without cancelling it continues to run
            # (grpc/grpc#43462).
            reader.cancel()

    async def plan_user_scan(self, parts: int = 16, *, timeout: float | None = None) -> Sequence[UserScanPart]:
        """Divides all users into parts that `list_chunked` can read side by side, in one program or in several.

        All parts together contain every user that exists from this call to the end of the last part exactly once,
        regardless of concurrent writes. The largest `end_cursor` of the parts is a cursor: `list_chunked` with it
        returns the users that were added after this call.

        Args:
            parts: The number of parts, from 1 to 64; 0 means 16. There are more parts if the store has more partitions
                with users, and fewer if there are fewer users.
            timeout: Seconds that the call may take.

        Returns:
            The parts, at most 64, of about the same size; none if there are no users.

        Raises:
            InvalidArgumentError: If `parts` is not an integer from 0 to 64.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.PLAN_USER_SCAN.request, {"parts": parts})
        response = await self._connection.call(rpc.PLAN_USER_SCAN, request, attempts)
        planned = [UserScanPart(part.partition, part.cursor, part.end_cursor) for part in response.parts]
        check_parts(planned)
        return planned

    def iter(
        self,
        cursor: int = 0,
        *,
        chunk_size: int = 1000,
        filter: str | None = None,  # noqa: A002 - the field's name
        order_by: OrderBy | None = None,
        view: View | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[User, None]:
        """Yields all users one by one; reads chunks like `list_chunked`, with the same guarantee.

        All arguments apply to each chunk, also after the stream was resumed. Leaving the loop cancels the RPC. To
        continue later, store the id of the last user that you processed, and pass this id as `cursor`.

        Args:
            cursor: The id of the user after which to start; 0 starts at the beginning.
            chunk_size: The maximum number of users per chunk, at most 10 000.
            filter: Selects users by their fields; see `list_chunked`.
            order_by: "id" (the default), or "id desc": the newest users first. With "id desc", `iter` reads pages with
                `list`, of at most 1000 users; users that are added meanwhile are not returned.
            view: The fields to return: "FULL" (the default), "BASIC" (without metadata) or "ID" (user_id and id).
            timeout: Seconds to wait for each chunk or page, including reconnecting. The time that the body of the loop
                needs does not count.

        Returns:
            A generator of User. Its errors are those of `list_chunked`.

        Raises:
            InvalidArgumentError: If an argument has a wrong type.
            ValueError: If the timeout is invalid.
        """
        if order_by is not None and order_by.split() != ["id"]:
            return self._iter_pages(chunk_size, cursor, filter, order_by, view, timeout)
        fields = {"chunk_size": chunk_size, "cursor": cursor, "view": view, "filter": filter}
        return each_user(ChunkReader(self._connection, fields, timeout))

    async def _iter_pages(
        self,
        limit: int,
        cursor: int,
        user_filter: str | None,
        order_by: OrderBy,
        view: View | None,
        timeout: float | None,
    ) -> AsyncGenerator[User, None]:
        while True:
            page = await self.list(limit, cursor, filter=user_filter, order_by=order_by, view=view, timeout=timeout)
            for user in page:
                yield user
            cursor = page.next_cursor
            if not cursor:
                return

    async def count(self, filter: str | None = None, *, timeout: float | None = None) -> int:  # noqa: A002
        """Returns the number of all users, or of the users that match a filter.

        With a filter, the service examines all users, 100 000 per call.

        Args:
            filter: Selects users by their fields; see `list_chunked`.
            timeout: Seconds that each call may take.

        Raises:
            InvalidArgumentError: If the filter is invalid.
        """
        total = cursor = 0
        while True:
            attempts = self._connection.attempts(timeout)
            request = build_request(rpc.COUNT_USERS.request, {"filter": filter, "cursor": cursor})
            found = await self._connection.call(rpc.COUNT_USERS, request, attempts)
            total += check_count(found.count)
            check_cursor((), cursor, found.next_cursor, 0)
            cursor = found.next_cursor
            if not cursor:
                return total

    async def find(
        self,
        emails: Iterable[str],
        limit: int = 100,
        cursor: int = 0,
        *,
        view: View | None = None,
        timeout: float | None = None,
    ) -> UserPage:
        """Returns one page of the users that have one of these e-mail addresses, in the order of their ids.

        Addresses are compared without regard to case and Unicode form. Several users can have the same address.

        Args:
            emails: 1 to 1000 addresses.
            limit: The maximum number of users, at most 1000. A page ends early at 1 MiB, or if many users have the same
                address; it can then have few users or none and still have a `next_cursor`.
            cursor: The `next_cursor` of an earlier page for the same addresses; 0 starts at the beginning.
            view: The fields to return: "FULL" (the default), "BASIC" (without metadata) or "ID" (user_id and id).
            timeout: Seconds that the call may take.

        Returns:
            A list of User with `next_cursor`, which is 0 at the end. `total_size` is 0.

        Raises:
            InvalidArgumentError: If there are no addresses or more than 1000, or an argument is invalid.
            IndexNotReadyError: If the store has no e-mail index yet (`userservice reindex`).
        """
        attempts = self._connection.attempts(timeout)
        fields = {"emails": emails, "view": view, "limit": limit, "cursor": cursor}
        request = build_request(rpc.FIND_USERS.request, fields)
        page = await self._connection.call(rpc.FIND_USERS, request, attempts)
        found = User.wrap_page(page.users, request.cursor)
        check_cursor(found, request.cursor, page.next_cursor, 0)
        return UserPage(found, next_cursor=page.next_cursor)

    async def batch_get(
        self, user_ids: Iterable[str], *, view: View | None = None, timeout: float | None = None
    ) -> UserBatch:
        """Returns the users with these user_ids.

        Args:
            user_ids: 1 to 1000 user_ids. If a user_id is repeated, the result contains its user each time.
            view: The fields to return: "FULL" (the default), "BASIC" (without metadata) or "ID" (user_id and id).
            timeout: Seconds that the call may take.

        Returns:
            A list of the existing users, in the order of the request, with `missing_user_ids`.

        Raises:
            InvalidArgumentError: If there are no user_ids or more than 1000, or a user_id or the view is invalid.
        """
        attempts = self._connection.attempts(timeout)
        request = build_request(rpc.BATCH_GET_USERS.request, {"user_ids": user_ids, "view": view})
        found = await self._connection.call(rpc.BATCH_GET_USERS, request, attempts)
        check_batch(found.users, found.missing_user_ids, request.user_ids)
        return UserBatch(User.wrap_all(found.users), missing_user_ids=found.missing_user_ids)

    async def import_users(
        self,
        rows: RowSource,
        /,
        *,
        import_id: str | None = None,
        on_duplicate: OnDuplicate = "FAIL",
        validate_only: bool = False,
        restore: bool = False,
        digest: str = "",
        offset: int = 0,
        on_progress: Progress | None = None,
        timeout: float | None = None,
    ) -> ImportStatus:
        """Writes users in bulk. Each row is applied exactly once.

        After a lost connection or a restart of the server, the import resumes where it was interrupted. To resume an
        import in another process, call this method with the same rows, import_id and options: the service keeps the
        state of an import for 7 days, and rows that are applied are read from the source and not sent. An invalid row
        fails alone. At most 4 batches of 500 rows are in memory.

        Args:
            rows: The rows, an iterable: mappings with the fields of `AddUserFields` (except request_id), or User. An
                InvalidArgumentError is accepted as a row that the caller could not read; it fails with this error.
                Fields that the service sets, such as id, are ignored unless `restore` is set.
            import_id: Identifies the import, a UUID; generated if absent.
            on_duplicate: What to do with a row whose user exists: "FAIL", "SKIP", "MERGE" or "REPLACE"; see
                `OnDuplicate`.
            validate_only: Check the rows, but write nothing.
            restore: Keep all fields of the rows, also ids and times. Needs the scope admin and an empty store.
            digest: Digest of the source, such as the SHA-256 of a file. The service rejects the import_id for another
                digest.
            offset: The number of the first row in `rows`, if the caller leaves out rows that are applied already (see
                `get_import`).
            on_progress: Called after each response with the state of the import. Its `row_errors` are the rows that
                failed since the previous call. If an import is resumed, the first call contains the errors of the
                earlier run.
            timeout: Seconds to wait for each response, including reconnecting. The time that `rows` needs does not
                count.

        Returns:
            The final state, with the first 10 000 row errors of the import.

        Raises:
            InvalidArgumentError: If an option is invalid, or restore is set and the store has users.
            ImportIdReusedError: If the import_id was used with other options or another digest.
            ImportOffsetGapError: If the import continues before the first row; or if the store has lost rows that were
                applied, as after a failover.
            UnavailableError: If the service was unavailable for the whole timeout.
            TypeError: If a row is not a mapping, a User or an InvalidArgumentError.
        """
        fields = with_request_id({"request_id": import_id})
        options = build_options(
            fields["request_id"], on_duplicate, digest, validate_only=validate_only, restore=restore
        )
        return await Importer(self._connection, rows, options, offset, timeout, on_progress).run()

    async def get_import(self, import_id: str, *, timeout: float | None = None) -> ImportStatus:
        """Returns the state of an import, with its first 10 000 row errors. Reads as many pages as needed.

        Args:
            import_id: The import_id.
            timeout: Seconds for reading all pages.

        Raises:
            ImportNotFoundError: If no import has this import_id, or its last batch was more than 7 days ago.
            InvalidArgumentError: If the import_id is not a UUID.
        """
        return await read_errors(self._connection, import_id, 0, self._connection.attempts(timeout))

    async def watch(
        self,
        start: Literal["now", "snapshot"] = "now",
        *,
        resume_token: str | None = None,
        kinds: Iterable[WatchKind] = ("USERS",),
        view: View | None = None,
        heartbeat: int = 15,
        on_expired: OnExpired = "raise",
        timeout: float | None = None,
    ) -> AsyncGenerator[Changes, None]:
        """Yields the changes of users and sessions until the loop is left. The feed of the service must be on.

        Every change is yielded at least once, the changes of one user in order, and the last one contains the latest
        state. There is never a silent gap. After a lost connection or a restart of the server, the watch resumes after
        the last changes that it yielded. To resume it in another process, store `resume_token` after processing the
        changes. Leaving the loop cancels the RPC.

        Args:
            start: "now": only changes from now on; the first list is yielded at once, and all changes after it are
                yielded. "snapshot": first all users, each exactly once, and then the changes since the start.
            resume_token: The token of the last changes that were processed; `start` is then not used.
            kinds: The records whose changes are yielded: "USERS" (the default), "SESSIONS" or both. The deletion of a
                user is always yielded, the touch of a session never. A watch must be resumed with the same kinds.
            view: The fields of the records: "FULL" (the default), "BASIC" (without metadata) or "ID" (keys and id).
            heartbeat: Seconds, 1 to 600, after which an empty list with a token is yielded if there are no changes.
            on_expired: What happens if changes were lost: "raise", or "snapshot": the watch starts again with a
                snapshot, whose first list has `restarted` set.
            timeout: Seconds for reconnecting.

        Yields:
            Lists of Change, empty in a heartbeat, with `resume_token`, `snapshot_complete` and `restarted`.

        Raises:
            WatchDisabledError: If the feed of the service is off.
            WatchTokenExpiredError: If the feed no longer contains all changes after the token, for example because the
                token is too old.
            InvalidArgumentError: If an argument is invalid.
            UnavailableError: If the service was unavailable for the whole timeout.
        """
        watching = WatchReader(self._connection, start, resume_token, kinds, view, heartbeat, on_expired, timeout)
        try:
            while True:
                yield await watching.next_changes()
        finally:
            watching.cancel()  # as in `list_chunked`

    async def get_sessions(
        self,
        user_id: str,
        *,
        include_expired: bool = False,
        view: View | None = None,
        timeout: float | None = None,
    ) -> SessionPage:
        """Returns all sessions of a user in the order of their ids. Reads as many pages as needed.

        Args:
            user_id: The user_id of the user.
            include_expired: Whether to include expired sessions that the service has not removed yet.
            view: The fields to return: "FULL" (the default), "BASIC" (without metadata) or "ID" (keys and id).
            timeout: Seconds for reading all pages.

        Returns:
            A list of Session, empty if the user has no sessions.

        Raises:
            UserNotFoundError: If no user has this user_id.
            InvalidArgumentError: If the user_id or the view is invalid.
        """
        attempts = self._connection.attempts(timeout)
        sessions = SessionPage()
        cursor = 0
        while True:
            fields = {
                "user_id": user_id,
                "limit": _LARGEST_PAGE,
                "cursor": cursor,
                "view": view,
                "include_expired": include_expired,
            }
            page = await get_session_page(self._connection, fields, attempts)
            sessions += page
            if not page.next_cursor:
                sessions.total_size = len(sessions)
                return sessions
            cursor = page.next_cursor

    # The names in docs/users-api.md.

    def listChunked(  # noqa: N802
        self,
        chunkSize: int = 100,  # noqa: N803
        cursor: int = 0,
        *,
        filter: str | None = None,  # noqa: A002 - the field's name
        view: View | None = None,
        parallel: int = 1,
        parts: Iterable[Sequence[int]] | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[UserPage, None]:
        """The same as `list_chunked`."""
        return self.list_chunked(
            chunkSize, cursor, filter=filter, view=view, parallel=parallel, parts=parts, timeout=timeout
        )

    planUserScan = plan_user_scan  # noqa: N815

    batchGet = batch_get  # noqa: N815
    getSessions = get_sessions  # noqa: N815
    importUsers = import_users  # noqa: N815
    getImport = get_import  # noqa: N815
