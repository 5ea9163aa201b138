"""Every error of the service has a row in the table, and nothing of an unexpected one reaches a caller."""

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RequestInfo

from userservice_server import errors
from userservice_server.transport.interceptors import CHAIN
from userservice_server.transport.status import TABLE, status_of


def all_errors() -> set[type[Exception]]:
    return set(errors.ServiceError.__subclasses__())


def test_the_table_is_complete() -> None:
    assert set(TABLE) == all_errors()


def test_reasons_are_told_apart() -> None:
    reasons = [row.reason for row in TABLE.values()]
    assert len(set(reasons)) == len(reasons)


def test_a_bug_is_told_without_its_text() -> None:
    code, status = status_of(ValueError("secret redis://:password@host"), "request-1")
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in str(status)

    info, request = ErrorInfo(), RequestInfo()
    status.details[0].Unpack(info)
    status.details[1].Unpack(request)
    assert (info.domain, info.reason) == ("userservice", "INTERNAL")
    assert request.request_id == "request-1"


@pytest.mark.parametrize("outer", range(len(CHAIN) - 1))
def test_the_chain_has_its_order(outer: int) -> None:
    names = ["request_id", "access_log", "errors", "deadline"]
    assert CHAIN[outer].__name__ == names[outer]
    assert [interceptor.__name__ for interceptor in CHAIN] == names
