"""Every error of the service has a reason of the enum, and no text of an unexpected exception reaches a caller."""

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RequestInfo
from google.rpc.status_pb2 import Status

from userservice_server import errors
from userservice_server.transport.status import BUG, RULES, encoded_status, status_of

ERRORS = errors.ServiceError.__subclasses__()


def test_every_reason_except_internal_has_one_exception_in_the_server() -> None:
    assert sorted(error.reason for error in ERRORS) == sorted(RULES.keys() - {BUG})


@pytest.mark.parametrize("reason", RULES)
def test_every_rule_has_a_code_of_grpc_and_a_retry_delay_only_where_clients_retry(reason: str) -> None:
    rule = RULES[reason]
    assert grpc.StatusCode[rule.code] is not grpc.StatusCode.OK
    assert rule.retried or not rule.retry_delay_ms


def test_the_status_of_a_bug_has_no_text_of_the_exception() -> None:
    code, status = status_of(ValueError("secret redis://:password@host"), "request-1")
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in str(status)

    info, request = ErrorInfo(), RequestInfo()
    status.details[0].Unpack(info)
    status.details[1].Unpack(request)
    assert (info.domain, info.reason) == ("userservice", "INTERNAL")
    assert request.request_id == "request-1"


@pytest.mark.parametrize(
    "error",
    [
        *(error("a text") for error in ERRORS if "__init__" not in vars(error)),
        errors.CredentialsInvalidError("why"),
        errors.CredentialsInvalidError("why", next_cursor=7),
        errors.ScopeMissingError("admin"),
        errors.RateLimitedError("slow down", 0.3, subject="key:a", limit="calls"),
        errors.OverloadedError("busy", 0.2, limit="calls"),
        errors.InvalidFieldsError([errors.Violation("limit", "is negative")]),
        errors.ReaderStalledError("stalled", next_cursor=0),
        ValueError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("call_id", ["a", "x" * 128])
def test_the_encoded_status_is_that_of_the_table(error: Exception, call_id: str) -> None:
    code, status = status_of(error, call_id)
    found_code, message, encoded = encoded_status(error, call_id)
    assert (found_code, message, Status.FromString(encoded)) == (code, status.message, status)
