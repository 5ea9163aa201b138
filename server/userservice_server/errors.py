"""The expected failures of calls, without gRPC. transport/status.py maps each to a status by its reason."""

from dataclasses import dataclass
from typing import ClassVar, Self


class ServiceError(Exception):
    """Base class of every expected failure of a call.

    The text of these errors is sent to callers: it names fields and limits, never a value, an address or the text of
    another exception. A cause that is worth a log line is chained with ``raise ... from``.

    Attributes:
        reason: the error reason, a value of ``ErrorReason`` in protos/userservice/v1/error_reason.proto without its
            prefix. The rule of the value in that file defines the status code and whether a retry helps.
    """

    reason: ClassVar[str]


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that breaks a rule: its path in the request, and the rule with its limit."""

    field: str
    description: str


class InvalidFieldsError(ServiceError):
    """One or more fields of the request break a rule.

    Attributes:
        violations: the first MAX_REPORTED violations, because errors are sent in trailing metadata, and many clients
            reject more than 8 KiB of it. The error text lists the first 8 violations and counts the others.
    """

    reason = "INVALID_FIELD"

    MAX_REPORTED = 25
    _MAX_IN_TEXT = 8

    def __init__(self, violations: list[Violation]) -> None:
        texts = [f"{violation.field}: {violation.description}" for violation in violations[: self._MAX_IN_TEXT]]
        if len(violations) > self._MAX_IN_TEXT:
            texts.append(f"and {len(violations) - self._MAX_IN_TEXT} more")
        super().__init__("; ".join(texts))
        self.violations = violations[: self.MAX_REPORTED]


class UserNotFoundError(ServiceError):
    """No user has the requested user_id."""

    reason = "USER_NOT_FOUND"


class SessionNotFoundError(ServiceError):
    """The user has no session with the requested session_id."""

    reason = "SESSION_NOT_FOUND"


class UserAlreadyExistsError(ServiceError):
    """A user with this user_id exists."""

    reason = "USER_ALREADY_EXISTS"


class SessionAlreadyExistsError(ServiceError):
    """The user has a session with this session_id."""

    reason = "SESSION_ALREADY_EXISTS"


class SessionLimitError(ServiceError):
    """The user has the maximum number of sessions."""

    reason = "SESSION_LIMIT"


class EtagMismatchError(ServiceError):
    """The etag in the request is not the current one; nothing was changed."""

    reason = "ETAG_MISMATCH"


class UpdateConflictError(ServiceError):
    """Too many concurrent writes of one record; nothing was changed."""

    reason = "UPDATE_CONFLICT"


class RequestIdReusedError(ServiceError):
    """The request_id was used for a different request within the last ten minutes; nothing was changed."""

    reason = "REQUEST_ID_REUSED"


class StoreUnavailableError(ServiceError):
    """The store is unavailable, slow, loading or read-only. A write may or may not have been applied."""

    reason = "STORE_UNAVAILABLE"


class StoreChangedError(ServiceError):
    """The store was emptied, replaced or damaged; a write changed nothing, a read cannot be continued."""

    reason = "STORE_CHANGED"

    @classmethod
    def during_read(cls) -> Self:
        """Returns the error for a read during which the store was emptied or replaced."""
        return cls("the store was emptied or replaced during the call; start again from the beginning")


class StoreFullError(ServiceError):
    """The store has no memory left; nothing was changed."""

    reason = "STORE_FULL"


class ServerShuttingDownError(ServiceError):
    """The server shuts down and ends this stream between two messages; ``next_cursor`` resumes it."""

    reason = "SERVER_SHUTTING_DOWN"

    def __init__(self, message: str, *, next_cursor: int) -> None:
        super().__init__(message)
        self.next_cursor = next_cursor


class ReaderStalledError(ServiceError):
    """The client stopped reading a stream; ``next_cursor`` resumes it after the last message that was sent."""

    reason = "READER_STALLED"

    def __init__(self, message: str, *, next_cursor: int) -> None:
        super().__init__(message)
        self.next_cursor = next_cursor


class OverloadedError(ServiceError):
    """Too many calls are running; nothing was done.

    Attributes:
        retry_after: seconds after which the caller may retry.
        limit: name of the limit that was reached, for the log.
    """

    reason = "OVERLOADED"

    def __init__(self, message: str, retry_after: float, *, limit: str) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.limit = limit


class DeadlineExceededError(ServiceError):
    """The call took longer than the server allows."""

    reason = "DEADLINE_EXCEEDED"


class CredentialsMissingError(ServiceError):
    """The call has no credential, and the server requires one."""

    reason = "CREDENTIALS_MISSING"


class CredentialsInvalidError(ServiceError):
    """The credential of the call is not valid, or no longer valid; ``next_cursor`` resumes a stream.

    Attributes:
        cause: the reason, for the log. The response does not contain it, because it would help to guess credentials.
        next_cursor: position after the last message of a stream that ended with this error; 0 if there is none.
    """

    reason = "CREDENTIALS_INVALID"

    def __init__(self, cause: str, *, next_cursor: int = 0) -> None:
        super().__init__("the credential is invalid, expired or revoked")
        self.cause = cause
        self.next_cursor = next_cursor


class ScopeMissingError(ServiceError):
    """The credential does not have the scope that the method requires."""

    reason = "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        super().__init__(f"the credential does not have the scope {scope}, which this method requires")
        self.scope = scope


class RateLimitedError(ServiceError):
    """Too many calls per second or concurrent streams with one credential; nothing was done.

    Attributes:
        retry_after: seconds after which the caller may retry.
        subject: the credential that has the limit.
        limit: name of the limit.
    """

    reason = "RATE_LIMITED"

    def __init__(self, message: str, retry_after: float, *, subject: str, limit: str) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.subject = subject
        self.limit = limit


class AuthenticationUnavailableError(ServiceError):
    """Tokens cannot be verified at present."""

    reason = "AUTHENTICATION_UNAVAILABLE"


class WatchDisabledError(ServiceError):
    """The feed of changes is off."""

    reason = "WATCH_DISABLED"


class WatchTokenExpiredError(ServiceError):
    """The feed no longer contains all changes after a position."""

    reason = "WATCH_TOKEN_EXPIRED"


class IndexNotReadyError(ServiceError):
    """The e-mail index does not exist, is being built, or must be built again."""

    reason = "INDEX_NOT_READY"


class ImportOffsetGapError(ServiceError):
    """A batch of an import does not continue the rows that were sent before; its rows were not applied.

    Attributes:
        next_offset: the offset at which the import continues.
    """

    reason = "IMPORT_OFFSET_GAP"

    def __init__(self, message: str, *, next_offset: int) -> None:
        super().__init__(message)
        self.next_offset = next_offset


class ImportNotFoundError(ServiceError):
    """The store has no import with this import_id."""

    reason = "IMPORT_NOT_FOUND"


class ImportIdReusedError(ServiceError):
    """The import_id was used for an import with other options; nothing was changed."""

    reason = "IMPORT_ID_REUSED"
