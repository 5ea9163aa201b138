"""Reads the stream of changes and resumes it after lost connections and restarts of the server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from userservice._connection import Connection, Stream, decode
from userservice._methods import WATCH_USERS
from userservice._retry import worth_retrying
from userservice._transport import RawStream
from userservice.changes import Change, ChangeKind, Changes
from userservice.errors import (
    CredentialsInvalidError,
    DeadlineExceededError,
    FieldViolation,
    InternalError,
    UserServiceError,
    WatchTokenExpiredError,
)
from userservice.models import Session, User
from userservice.requests import build_request, reject
from userservice.v1 import user_watch_pb2 as pb

_DEFAULT_HEARTBEAT = 15  # seconds; the service uses it if the request has 0
_LATE_SECONDS = 5.0
"""If a message is this much later than the heartbeat, the stream counts as lost."""

_CHANGE_PREFIX, _WATCH_PREFIX = "CHANGE_KIND_", "WATCH_KIND_"
_KINDS = {number: name.removeprefix(_CHANGE_PREFIX) for name, number in pb.ChangeKind.items()}
_WATCHED = {name.removeprefix(_WATCH_PREFIX): number for name, number in pb.WatchKind.items() if number}
_REMOVALS = frozenset({"USER_DELETED", "SESSION_DELETED", "SESSION_EXPIRED"})


class WatchReader:
    """Reads the messages of one `watch`.

    Args:
        connection: The connection to read from.
        start: "now" or "snapshot"; not used if there is a resume token.
        resume_token: Where the watch resumes.
        kinds: The records whose changes are reported.
        view: The fields of the records.
        heartbeat: Seconds after which the service sends a message without changes.
        on_expired: "raise" or "snapshot".
        timeout: Seconds for reconnecting; None means the timeout of the connection.

    Raises:
        InvalidArgumentError: If an argument is invalid.
        ValueError: If the timeout is invalid.
    """

    def __init__(
        self,
        connection: Connection,
        start: str,
        resume_token: str | None,
        kinds: Iterable[str],
        view: str | None,
        heartbeat: int,
        on_expired: str,
        timeout: float | None,
    ) -> None:
        self._connection = connection
        self._timeout = timeout
        self._restarts = on_expired == "snapshot"
        self._restarted = False
        is_set = isinstance(heartbeat, int) and heartbeat > 0
        self._patience = (heartbeat if is_set else _DEFAULT_HEARTBEAT) + _LATE_SECONDS
        self._stream: Stream[RawStream] | None = None
        _check(start, on_expired)
        fields: dict[str, object] = {"view": view, "heartbeat_seconds": heartbeat, "resume_token": resume_token}
        if resume_token is None:
            fields["snapshot" if start == "snapshot" else "now"] = True
        self._request = build_request(WATCH_USERS.request, fields)
        self._request.kinds.extend(_numbers(kinds))
        connection.attempts(timeout)

    async def next_changes(self) -> Changes:
        """Returns the changes of the next message.

        Raises:
            UserServiceError: If the service was unavailable for the whole timeout, or rejected the request.
        """
        if self._stream is not None:
            try:
                attempts = self._connection.attempts(self._patience)
                return self._decode(await self._connection.read(self._stream, attempts))
            except UserServiceError as error:
                self.cancel()
                self._check_resumable(error)
        attempts = self._connection.attempts(self._timeout)
        while True:
            try:
                if self._stream is None:
                    self._stream = await self._connection.open_stream(WATCH_USERS, self._request, attempts)
                return self._decode(await self._connection.read(self._stream, attempts))
            except WatchTokenExpiredError as error:
                self.cancel()
                self._restart(error)
            except UserServiceError as error:
                self.cancel()
                await attempts.pause(error, error.__cause__)

    def _check_resumable(self, error: UserServiceError) -> None:
        """Raises the error that ended a stream, unless the watch can be resumed or started again."""
        if isinstance(error, WatchTokenExpiredError):
            self._restart(error)
        elif not worth_retrying(error) and not isinstance(error, (DeadlineExceededError, CredentialsInvalidError)):
            raise error

    def _restart(self, error: WatchTokenExpiredError) -> None:
        """Starts again with a snapshot; raises the error unless `on_expired` is "snapshot"."""
        if not self._restarts or self._request.WhichOneof("start") == "snapshot":
            raise error
        self._request.snapshot = True
        self._restarted = True

    def _decode(self, encoded: bytes) -> Changes:
        response = decode(WATCH_USERS, encoded)
        if not response.resume_token:
            raise InternalError("the service returned a message without a resume_token")
        changes = Changes(
            map(_change, response.changes),
            resume_token=response.resume_token,
            snapshot_complete=response.snapshot_complete,
            restarted=self._restarted,
        )
        self._restarted = False
        # If this stream is cut, the next stream starts here.
        self._request.resume_token = response.resume_token
        return changes

    def cancel(self) -> None:
        """Ends the running RPC immediately. Must be called at the end, because nothing else ends an unread stream."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None


def _check(start: str, on_expired: str) -> None:
    violations = []
    if start not in ("now", "snapshot"):
        violations.append(FieldViolation("start", f"must be now or snapshot, not {start!r}"))
    if on_expired not in ("raise", "snapshot"):
        violations.append(FieldViolation("on_expired", f"must be raise or snapshot, not {on_expired!r}"))
    reject(violations)


def _numbers(kinds: Iterable[str]) -> list[Any]:
    if isinstance(kinds, str):
        kinds = (kinds,)
    names = list(kinds)
    reject(
        [
            FieldViolation("kinds", f"must be a list of {' and '.join(_WATCHED)}, not {kind!r}")
            for kind in names
            if kind not in _WATCHED
        ]
    )
    return [_WATCHED[kind] for kind in dict.fromkeys(names)]


def _change(message: pb.Change) -> Change:
    kind = _KINDS.get(message.kind)
    if kind is None or kind == "UNSPECIFIED":
        raise InternalError(f"the service returned a change of the unknown kind {message.kind}")
    is_of_session = kind.startswith("SESSION_")
    named = cast("ChangeKind", kind)
    if kind in _REMOVALS:
        session_id = message.session_id if is_of_session else None
        return Change(named, message.revision, message.user_id, session_id, message.id, None, None)
    if is_of_session:
        session = Session.wrap(message.session)
        return Change(named, message.revision, session.user_id, session.session_id, session.id, None, session)
    user = User.wrap(message.user)
    return Change(named, message.revision, user.user_id, None, user.id, user, None)
