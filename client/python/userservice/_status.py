"""Maps the status of a failed call to an exception of the client."""

from __future__ import annotations

from typing import Any

import grpc

from userservice.errors import ERROR_BY_CODE, ERROR_BY_REASON, FieldViolation, InvalidArgumentError, UserServiceError

_DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "userservice"

_LONGEST_RETRY_DELAY = 86400.0
"""One day in seconds. A longer delay is reduced to one day, because no client would wait longer."""

_CAUSED_BY_PROXIES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class _Details:
    """The details of an error that the client uses, decoded from google.rpc.Status."""

    def __init__(self) -> None:
        self.reason = ""
        self.request_id = ""
        self.retry_delay: float | None = None
        self.violations: tuple[FieldViolation, ...] = ()

    def read(self, encoded: bytes) -> None:
        # Imported here because most programs never see an error, and these protos take 5 ms to load.
        from google.protobuf.message import DecodeError  # noqa: PLC0415
        from google.rpc import error_details_pb2, status_pb2  # noqa: PLC0415

        info, bad, retry, request = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
            error_details_pb2.RequestInfo(),
        )
        try:
            for detail in status_pb2.Status.FromString(encoded).details:
                if detail.Unpack(info) and info.domain == _DOMAIN:
                    self.reason = info.reason
                elif detail.Unpack(bad):
                    self.violations = _violations(bad)
                elif detail.Unpack(retry):
                    self.retry_delay = _delay(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
                elif detail.Unpack(request):
                    self.request_id = request.request_id
        except DecodeError:
            # If the details cannot be decoded, the caller still gets the error with its code and message.
            return


def _delay(seconds: float) -> float:
    # A faulty server must not cause a client to retry without a pause, or to sleep for a time that is out of range.
    return min(max(seconds, 0.0), _LONGEST_RETRY_DELAY)


def _violations(bad: Any) -> tuple[FieldViolation, ...]:
    return tuple(FieldViolation(violation.field, violation.description) for violation in bad.field_violations)


def error_from_status(
    code: grpc.StatusCode, message: str, encoded_details: bytes = b"", proxy: str = ""
) -> UserServiceError:
    """Returns the exception for a failed call.

    Args:
        code: The status code of the call; not OK.
        message: The status message of the call; may be empty.
        encoded_details: The google.rpc.Status in the call's trailing metadata; empty if there was none.
        proxy: The source of the proxy of the call's connection, such as `$https_proxy`; empty if there is none.

    Returns:
        An exception of the class of the reason; if there is none, of the class of the code; otherwise a
        `UserServiceError`.
    """
    details = _Details()
    if encoded_details:
        details.read(encoded_details)
    kind = ERROR_BY_REASON.get(details.reason) or ERROR_BY_CODE.get(code, UserServiceError)
    message = message or code.name
    if not details.reason and code in _CAUSED_BY_PROXIES:
        message = with_proxy(message, proxy)
    error = kind(
        message,
        code=code,
        reason=details.reason,
        request_id=details.request_id,
        retry_delay=details.retry_delay,
    )
    if isinstance(error, InvalidArgumentError):
        error.violations = details.violations
    return error


def error_from_call(failure: grpc.aio.AioRpcError, proxy: str = "") -> UserServiceError:
    """Returns the exception of this client for an exception of grpc.aio; see `error_from_status`.

    Args:
        failure: The exception of grpc.aio.
        proxy: The source of the proxy of the call's connection, such as `$https_proxy`; empty if there is none.
    """
    encoded = failure.trailing_metadata().get(_DETAILS_KEY, b"")
    details = encoded if isinstance(encoded, bytes) else b""
    return error_from_status(failure.code(), failure.details() or "", details, proxy)


def with_proxy(message: str, proxy: str) -> str:
    """Adds the source of the proxy, if there is one, to the message of an error that a proxy may have caused."""
    return f"{message}; the connection goes via the proxy of {proxy}" if proxy else message
