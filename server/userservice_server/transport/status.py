"""The one table of errors: what callers are told of each, as google.rpc.Status with details (AIP-193)."""

from collections.abc import Callable
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from userservice_server import errors

DOMAIN = "userservice"
DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error is told.

    Attributes:
        code: the gRPC status code.
        reason: ErrorInfo.reason.
        retry_ms: RetryInfo.retry_delay in milliseconds, where a retry may help; OVERLOADED brings its own.
        metadata: gives ErrorInfo.metadata.
    """

    code: grpc.StatusCode
    reason: str
    retry_ms: int | None = None
    metadata: Callable[[Exception], dict[str, str]] = lambda _: {}


def _next_cursor(error: Exception) -> dict[str, str]:
    if isinstance(error, errors.ServerShuttingDownError | errors.ReaderStalledError) and error.next_cursor:
        return {"next_cursor": str(error.next_cursor)}
    return {}


TABLE: dict[type[Exception], Row] = {
    errors.InvalidFieldsError: Row(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    errors.UserNotFoundError: Row(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND"),
    errors.SessionNotFoundError: Row(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"),
    errors.UserAlreadyExistsError: Row(grpc.StatusCode.ALREADY_EXISTS, "USER_ALREADY_EXISTS"),
    errors.SessionAlreadyExistsError: Row(grpc.StatusCode.ALREADY_EXISTS, "SESSION_ALREADY_EXISTS"),
    errors.EtagMismatchError: Row(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"),
    errors.UpdateConflictError: Row(grpc.StatusCode.ABORTED, "UPDATE_CONFLICT", retry_ms=50),
    errors.RequestIdReusedError: Row(grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED"),
    errors.StoreUnavailableError: Row(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_ms=250),
    errors.StoreFullError: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"),
    errors.ServerShuttingDownError: Row(
        grpc.StatusCode.UNAVAILABLE, "SERVER_SHUTTING_DOWN", retry_ms=100, metadata=_next_cursor
    ),
    errors.ReaderStalledError: Row(grpc.StatusCode.UNAVAILABLE, "READER_STALLED", retry_ms=100, metadata=_next_cursor),
    errors.OverloadedError: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    errors.DeadlineExceededError: Row(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
}
BUG = Row(grpc.StatusCode.INTERNAL, "INTERNAL")
BUG_MESSAGE = "internal error; the server's log has it under this request's id"


def status_of(error: Exception, request_id: str) -> tuple[grpc.StatusCode, Status]:
    """Returns the status that tells a caller of ``error``. The text of unexpected exceptions is left out."""
    row = TABLE.get(type(error), BUG)
    details: list[Message] = [
        ErrorInfo(reason=row.reason, domain=DOMAIN, metadata=row.metadata(error)),
        RequestInfo(request_id=request_id),
    ]
    if isinstance(error, errors.InvalidFieldsError):
        details.append(
            BadRequest(
                field_violations=[
                    BadRequest.FieldViolation(field=violation.field, description=violation.description)
                    for violation in error.violations
                ]
            )
        )
    retry_ms = round(error.retry_after * 1000) if isinstance(error, errors.OverloadedError) else row.retry_ms
    if retry_ms is not None:
        delay = Duration()
        delay.FromMilliseconds(retry_ms)
        details.append(RetryInfo(retry_delay=delay))
    status = Status(code=row.code.value[0], message=BUG_MESSAGE if row is BUG else str(error))
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return row.code, status
