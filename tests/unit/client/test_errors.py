import copy
import pickle
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

import userservice
from userservice import errors
from userservice._status import error_from_status

ALL_CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.UserServiceError)
]

# The rows of the contract, written apart from the enum that the classes are generated from.
TABLE = [
    (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "InvalidArgumentError"),
    (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND", "UserNotFoundError"),
    (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", "SessionNotFoundError"),
    (grpc.StatusCode.ALREADY_EXISTS, "USER_ALREADY_EXISTS", "UserAlreadyExistsError"),
    (grpc.StatusCode.ALREADY_EXISTS, "SESSION_ALREADY_EXISTS", "SessionAlreadyExistsError"),
    (grpc.StatusCode.ABORTED, "ETAG_MISMATCH", "EtagMismatchError"),
    (grpc.StatusCode.ABORTED, "UPDATE_CONFLICT", "UpdateConflictError"),
    (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED", "RequestIdReusedError"),
    (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "StoreUnavailableError"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL", "StoreFullError"),
    (grpc.StatusCode.FAILED_PRECONDITION, "INDEX_NOT_READY", "IndexNotReadyError"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "SESSION_LIMIT", "SessionLimitError"),
    (grpc.StatusCode.FAILED_PRECONDITION, "STORE_CHANGED", "StoreChangedError"),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "DeadlineExceededError"),
    (grpc.StatusCode.INTERNAL, "INTERNAL", "InternalError"),
    (grpc.StatusCode.UNAVAILABLE, "SERVER_SHUTTING_DOWN", "ServerShuttingDownError"),
    (grpc.StatusCode.UNAVAILABLE, "READER_STALLED", "ReaderStalledError"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "OverloadedError"),
    (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING", "CredentialsMissingError"),
    (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID", "CredentialsInvalidError"),
    (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING", "ScopeMissingError"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", "RateLimitedError"),
    (grpc.StatusCode.UNAVAILABLE, "AUTHENTICATION_UNAVAILABLE", "AuthenticationUnavailableError"),
    (grpc.StatusCode.OUT_OF_RANGE, "IMPORT_OFFSET_GAP", "ImportOffsetGapError"),
    (grpc.StatusCode.NOT_FOUND, "IMPORT_NOT_FOUND", "ImportNotFoundError"),
    (grpc.StatusCode.FAILED_PRECONDITION, "IMPORT_ID_REUSED", "ImportIdReusedError"),
    (grpc.StatusCode.FAILED_PRECONDITION, "WATCH_DISABLED", "WatchDisabledError"),
    (grpc.StatusCode.FAILED_PRECONDITION, "WATCH_TOKEN_EXPIRED", "WatchTokenExpiredError"),
]


def encoded(*parts: Message, reason: str = "", domain: str = "userservice") -> bytes:
    status = Status()
    for part in (details.ErrorInfo(reason=reason, domain=domain), *parts):
        packed = AnyMessage()
        packed.Pack(part)
        status.details.append(packed)
    return bytes(status.SerializeToString())


@pytest.mark.parametrize(("code", "reason", "name"), TABLE)
def test_every_reason_has_its_exception_class(code: grpc.StatusCode, reason: str, name: str) -> None:
    error = error_from_status(code, "text", encoded(reason=reason))
    assert type(error) is getattr(userservice, name)
    assert (error.code, error.reason, error.message) == (code, reason, "text")
    assert (type(error).code, type(error).reason) == (code, reason)


def test_the_error_table_has_no_unknown_reasons() -> None:
    assert set(errors.ERROR_BY_REASON) == {reason for _, reason, _ in TABLE}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidArgumentError),
        (grpc.StatusCode.INTERNAL, errors.InternalError),
        (grpc.StatusCode.NOT_FOUND, errors.UserServiceError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.UserServiceError),
    ],
)
@pytest.mark.parametrize("encoded_details", [b"", b"\xff", encoded(reason="USER_NOT_FOUND", domain="other")])
def test_without_a_reason_the_code_selects_the_exception(
    code: grpc.StatusCode, kind: type[Exception], encoded_details: bytes
) -> None:
    error = error_from_status(code, "", encoded_details)
    assert type(error) is kind
    assert (error.code, error.reason, error.message) == (code, "", code.name)


def test_a_reason_of_a_newer_service_is_kept() -> None:
    error = error_from_status(grpc.StatusCode.UNAVAILABLE, "text", encoded(reason="NEWER"))
    assert type(error) is errors.UnavailableError
    assert error.reason == "NEWER"


def test_all_details_are_read() -> None:
    retry = details.RetryInfo()
    retry.retry_delay.FromMilliseconds(1250)
    bad = details.BadRequest(
        field_violations=[
            details.BadRequest.FieldViolation(field="user_id", description="is required"),
            details.BadRequest.FieldViolation(field="email", description="is too long"),
        ]
    )
    request = details.RequestInfo(request_id="r1")
    error = error_from_status(
        grpc.StatusCode.INVALID_ARGUMENT, "bad request", encoded(bad, retry, request, reason="INVALID_FIELD")
    )
    assert isinstance(error, errors.InvalidArgumentError)
    assert error.violations == (("user_id", "is required"), ("email", "is too long"))
    assert (error.retry_delay, error.request_id) == (1.25, "r1")
    assert str(error) == ("bad request (INVALID_FIELD, request r1)")


@pytest.mark.parametrize("kind", ALL_CLASSES)
@pytest.mark.parametrize("copied", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])  # noqa: S301
def test_errors_can_be_pickled_and_copied(kind: type[errors.UserServiceError], copied: Any) -> None:
    error = kind("text", code=grpc.StatusCode.DATA_LOSS, reason="R", request_id="r1", retry_delay=0.5)
    if isinstance(error, errors.InvalidArgumentError):
        error.violations = (errors.FieldViolation("a", "b"),)
    error.add_note("note")
    twin = copied(error)
    assert type(twin) is kind
    assert vars(twin) == vars(error)
    assert str(twin) == str(error)


def test_every_error_class_is_public_and_has_a_docstring() -> None:
    for kind in ALL_CLASSES:
        assert getattr(userservice, kind.__name__) is kind
        assert kind.__doc__
