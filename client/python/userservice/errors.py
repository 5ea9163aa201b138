"""The exceptions of the client: one class for each error reason of the service, under one base class.

Catch the class of one condition, or `UserServiceError` for all conditions. A program that compares texts should use
`reason`, which is part of the contract; `message` is for people and may change.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from userservice import _error_classes
from userservice._error_base import FieldViolation, InvalidArgumentError, UnavailableError, UserServiceError
from userservice._error_classes import *  # noqa: F403 - a new reason adds a class by generation alone
from userservice._error_classes import DeadlineExceededError, InternalError

__all__ = [
    "ERROR_BY_CODE",
    "ERROR_BY_REASON",
    "FieldViolation",
    "InvalidArgumentError",
    "ManagerClosedError",
    "ManagerUnusableError",
    "UnavailableError",
    "UserServiceError",
]
__all__ += _error_classes.__all__


class ManagerClosedError(UserServiceError):
    """The manager was closed before or during the call."""

    code = grpc.StatusCode.CANCELLED


class ManagerUnusableError(UserServiceError, RuntimeError):
    """The manager cannot be used in this process, thread or event loop; nothing was sent.

    Possible causes: the process was forked while a manager was in use, gevent or eventlet has patched the process, the
    manager belongs to another event loop, or no event loop is running.
    """

    code = grpc.StatusCode.FAILED_PRECONDITION


ERROR_BY_REASON: Mapping[str, type[UserServiceError]] = {
    error.reason: error
    for error in (InvalidArgumentError, *(vars(_error_classes)[name] for name in _error_classes.__all__))
}

# For errors without a reason, which are created by gRPC itself or by a proxy.
ERROR_BY_CODE: Mapping[grpc.StatusCode, type[UserServiceError]] = {
    error.code: error for error in (InvalidArgumentError, UnavailableError, DeadlineExceededError, InternalError)
}
