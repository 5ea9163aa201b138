"""The base classes of the client's exceptions. `errors.py` has all public classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import grpc


class FieldViolation(NamedTuple):
    """One invalid field of a request."""

    field: str
    """Path of the field, such as `email` or `metadata.address.lines[3]`."""

    description: str
    """What is wrong with the field, with its limit."""


class UserServiceError(Exception):
    """Base class of all exceptions that a call raises; also used for errors that have no class of their own.

    Attributes:
        message: What happened, as a text for people.
        code: The gRPC status code.
        reason: The error reason, such as `USER_NOT_FOUND`; empty if the error does not come from the service, for
            example when the service is unavailable.
        request_id: The call id in the service's log; empty if the call did not reach the service.
        retried: Whether the managers repeat a call that fails with this class of errors, until its deadline.
        retry_delay: Seconds after which the service suggests a retry; None if the service suggests no delay.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    reason: str = ""
    retried: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str | None = None,
        request_id: str = "",
        retry_delay: float | None = None,
    ) -> None:
        # pickle and copy call the class with the arguments of Exception and restore the other attributes from __dict__,
        # so only the message is an argument of Exception.
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
    """The request has invalid fields. The service rejected the request, or the client rejected it before sending it.

    Attributes:
        violations: The invalid fields of the request. The client reports all invalid fields; the service reports at
            most 25.
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


class UnavailableError(UserServiceError):
    """The service is unavailable; retries until the deadline did not succeed."""

    code = grpc.StatusCode.UNAVAILABLE
    retried = True
