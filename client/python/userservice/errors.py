"""The exceptions of the client: one class for each row of the service's error table, under one base.

Catch the class of the condition, or `UserServiceError` for all of them. A program that switches on text should use
`reason`, which is part of the contract; `message` is for people and may change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import grpc


class FieldViolation(NamedTuple):
    """One bad field of a request."""

    field: str
    """Path of the field, such as `email` or `metadata.address.lines[3]`."""

    description: str
    """What is wrong with it, naming the limit."""


class UserServiceError(Exception):
    """Base of all exceptions that a call raises, and the class of errors that have no class of their own.

    Attributes:
        message: What happened, for people.
        code: The gRPC status code.
        reason: The condition as the service names it, such as `USER_NOT_FOUND`; empty if the error is not the
            service's own, as when it could not be reached.
        request_id: The service's name for the failed call, to be found in its log; empty if it never got there.
        retry_delay: Seconds after which the service suggests to try again; None if it does not.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    reason: str = ""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str | None = None,
        request_id: str = "",
        retry_delay: float | None = None,
    ) -> None:
        # Only the message goes to Exception: what pickle and copy call the class with. The rest travels in __dict__.
        super().__init__(message)
        self.message = message
        self.code = type(self).code if code is None else code
        self.reason = type(self).reason if reason is None else reason
        self.request_id = request_id
        self.retry_delay = retry_delay

    def __str__(self) -> str:
        context = [self.reason or self.code.name]
        if self.request_id:
            context.append(f"request {self.request_id}")
        return f"{self.message} ({', '.join(context)})"


class InvalidArgumentError(UserServiceError):
    """A request has bad fields: refused by the service, or by the client before anything was sent.

    Attributes:
        violations: The bad fields of the request, never only the first; the service names 25 at the most.
    """

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_FIELD"

    def __init__(
        self,
        message: str,
        *,
        violations: Iterable[FieldViolation] = (),
        code: grpc.StatusCode | None = None,
        reason: str | None = None,
        request_id: str = "",
        retry_delay: float | None = None,
    ) -> None:
        super().__init__(message, code=code, reason=reason, request_id=request_id, retry_delay=retry_delay)
        self.violations: tuple[FieldViolation, ...] = tuple(violations)


class UserNotFoundError(UserServiceError):
    """There is no user of that user_id."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "USER_NOT_FOUND"


class SessionNotFoundError(UserServiceError):
    """The user exists but has no session of that session_id."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "SESSION_NOT_FOUND"


class UserAlreadyExistsError(UserServiceError):
    """There is a user of that user_id already."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "USER_ALREADY_EXISTS"


class SessionAlreadyExistsError(UserServiceError):
    """The user has a session of that session_id already."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "SESSION_ALREADY_EXISTS"


class EtagMismatchError(UserServiceError):
    """Somebody else wrote since the etag was read; nothing was changed."""

    code = grpc.StatusCode.ABORTED
    reason = "ETAG_MISMATCH"


class UpdateConflictError(UserServiceError):
    """The write lost too many races against other writes of the same record; nothing was changed."""

    code = grpc.StatusCode.ABORTED
    reason = "UPDATE_CONFLICT"


class RequestIdReusedError(UserServiceError):
    """The request_id was used within the last 10 minutes for a different request; nothing was changed."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "REQUEST_ID_REUSED"


class StoreFullError(UserServiceError):
    """The service's store has no room left; nothing was changed."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "STORE_FULL"


class InternalError(UserServiceError):
    """A bug of the service, or an answer that the client cannot make sense of."""

    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"


class UnavailableError(UserServiceError):
    """The service could not be reached or went away, and retries until the deadline did not help."""

    code = grpc.StatusCode.UNAVAILABLE


class StoreUnavailableError(UnavailableError):
    """The service runs but its store is away, slow, loading or read-only."""

    reason = "STORE_UNAVAILABLE"


class ServerShuttingDownError(UnavailableError):
    """The server is shutting down. It ends streams so, between two chunks; `list_chunked` resumes by itself."""

    reason = "SERVER_SHUTTING_DOWN"


class ReaderStalledError(UnavailableError):
    """The service ended a stream that was not read for too long; `list_chunked` resumes by itself."""

    reason = "READER_STALLED"


class OverloadedError(UserServiceError):
    """The service runs as many calls as it takes on; nothing was done. Tried again until the deadline."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"


class DeadlineExceededError(UserServiceError):
    """No answer in time. Whether a write was applied is unknown; repeating it with its request_id is safe."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class ManagerClosedError(UserServiceError):
    """The manager was closed before or during the call."""

    code = grpc.StatusCode.CANCELLED


# The one table from what the service sends to what the client raises. Each class names its own row.
ERROR_BY_REASON: Mapping[str, type[UserServiceError]] = {
    error.reason: error
    for error in (
        InvalidArgumentError,
        UserNotFoundError,
        SessionNotFoundError,
        UserAlreadyExistsError,
        SessionAlreadyExistsError,
        EtagMismatchError,
        UpdateConflictError,
        RequestIdReusedError,
        StoreUnavailableError,
        StoreFullError,
        ServerShuttingDownError,
        ReaderStalledError,
        OverloadedError,
        InternalError,
    )
}

# For errors that carry no reason, made by gRPC itself or by a proxy on the way.
ERROR_BY_CODE: Mapping[grpc.StatusCode, type[UserServiceError]] = {
    error.code: error for error in (InvalidArgumentError, UnavailableError, DeadlineExceededError, InternalError)
}
