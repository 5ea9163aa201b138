"""Calls, error details and headers with clients that contain no code of this project."""

import pytest
from harness.foreign import ForeignClient
from harness.services import Service
from harness.waiting import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]  # the first test builds the clients


def test_calls_and_errors(client: ForeignClient, service: Service) -> None:
    found = client.run("calls", service.address)
    assert found["user_id"]
    assert (found["missing"]["code"], found["missing"]["reason"]) == ("NOT_FOUND", "USER_NOT_FOUND")
    invalid = found["invalid"]
    assert (invalid["code"], invalid["reason"], invalid["field"]) == ("INVALID_ARGUMENT", "INVALID_FIELD", "user_id")
    for failure in (found["missing"], invalid):
        assert until(lambda call_id=failure["call_id"]: service.log_lines_with(call_id))  # type: ignore[misc]


@pytest.mark.parametrize("size", [1000, 8192, 12_000, 16_000, 16_500, 40_000])
def test_headers_of_each_size_get_one_documented_response(client: ForeignClient, service: Service, size: int) -> None:
    expected = "OK  " if size <= 16_000 else "INVALID_ARGUMENT INVALID_FIELD headers"
    assert client.run("headers", service.address, size, 200) == {expected: 200}
