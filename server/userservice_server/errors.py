"""What can go wrong, in the service's own terms. transport/status.py says how each is told to callers."""

from dataclasses import dataclass


class ServiceError(Exception):
    """Base of every expected failure of a call.

    The text of these errors is sent to callers: it names fields and limits, never a value, an address or the text of
    another exception. A cause that is worth a log line is chained with ``raise ... from``.
    """


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that breaks a rule: its path in the request, and the rule with its limit."""

    field: str
    description: str


class InvalidFieldsError(ServiceError):
    """One or more fields of the request break a rule.

    Attributes:
        violations: each of them, MAX_REPORTED at the most: errors travel in trailing metadata, of which receivers take
            8 KiB. The text says how many there are beyond its own.
    """

    MAX_REPORTED = 25
    _MAX_IN_TEXT = 8

    def __init__(self, violations: list[Violation]) -> None:
        texts = [f"{violation.field}: {violation.description}" for violation in violations[: self._MAX_IN_TEXT]]
        if len(violations) > self._MAX_IN_TEXT:
            texts.append(f"and {len(violations) - self._MAX_IN_TEXT} more")
        super().__init__("; ".join(texts))
        self.violations = violations[: self.MAX_REPORTED]


class UserNotFoundError(ServiceError):
    """No user has the user_id asked for."""


class SessionNotFoundError(ServiceError):
    """The user has no session with the session_id asked for."""


class UserAlreadyExistsError(ServiceError):
    """A user with this user_id exists."""


class SessionAlreadyExistsError(ServiceError):
    """The user has a session with this session_id."""


class EtagMismatchError(ServiceError):
    """The etag in the request is not the current one; nothing was changed."""


class UpdateConflictError(ServiceError):
    """Other writers were faster, too many times in a row; nothing was changed."""


class RequestIdReusedError(ServiceError):
    """The request_id was used for a different request within the last ten minutes; nothing was changed."""


class StoreUnavailableError(ServiceError):
    """The store is away, slow, loading or read-only. A write may or may not have been applied."""


class StoreFullError(ServiceError):
    """The store has no memory left; nothing was changed."""


class ServerShuttingDownError(ServiceError):
    """The server ends this stream between two messages, to be resumed from ``next_cursor``."""

    def __init__(self, message: str, *, next_cursor: int) -> None:
        super().__init__(message)
        self.next_cursor = next_cursor


class ReaderStalledError(ServiceError):
    """The reader of a stream has not taken anything for too long; ``next_cursor`` follows what is on its way to it."""

    def __init__(self, message: str, *, next_cursor: int) -> None:
        super().__init__(message)
        self.next_cursor = next_cursor


class OverloadedError(ServiceError):
    """More calls are running than the server takes on; nothing was done.

    Attributes:
        retry_after: seconds after which the caller's turn to try again comes.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceededError(ServiceError):
    """The call took longer than the server allows."""
