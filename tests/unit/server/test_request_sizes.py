"""The byte limit of each request, derived from the limits of its fields."""

from typing import Any

import pytest
from harness.population import struct

from userservice.v1 import session_service_pb2, user_service_pb2
from userservice_server.transport.request_sizes import largest_valid, most_bytes

SERVICES = (
    user_service_pb2.DESCRIPTOR.services_by_name["UserService"],
    session_service_pb2.DESCRIPTOR.services_by_name["SessionService"],
)
REQUESTS = {method.name: method.input_type for service in SERVICES for method in service.methods}
LARGEST = struct({"k": "x" * 65521})


@pytest.mark.parametrize("method", REQUESTS)
def test_every_rpc_has_a_limit(method: str) -> None:
    limit = most_bytes(REQUESTS[method])
    assert 8192 < limit <= 1 << 20


def test_the_largest_valid_requests_are_far_below_their_limits() -> None:
    texts: dict[str, Any] = {"user_id": "u" * 256, "email": "e" * 320, "first_name": "f" * 256, "last_name": "l" * 256}
    add = user_service_pb2.AddUserRequest(**texts, metadata=LARGEST, request_id="0" * 36)
    batch = user_service_pb2.BatchGetUsersRequest(user_ids=["u" * 256] * 1000)
    update = user_service_pb2.UpdateUserRequest(**texts, metadata=LARGEST, request_id="0" * 36, etag="e" * 12)
    update.update_mask.paths.extend(["email", "first_name", "last_name", "metadata"])
    for request in (add, batch, update):
        assert request.ByteSize() <= largest_valid(request.DESCRIPTOR)
        assert 2 * request.ByteSize() < most_bytes(request.DESCRIPTOR)
