"""Fingerprints of requests: a repeated request has the same one, also after an upgrade of the service."""

from hashlib import blake2b
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from userservice.v1 import session_service_pb2, user_service_pb2
from userservice_server.wire.idempotency import fingerprint

REQUESTS: list[Any] = [
    getattr(module, name)
    for module in (user_service_pb2, session_service_pb2)
    for name, message in module.DESCRIPTOR.message_types_by_name.items()
    if "request_id" in message.fields_by_name
]
REQUEST_ID = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
texts = st.one_of(
    st.text("aé☃2$", max_size=20),
    st.integers(1, 300).map("x".__mul__),
    st.just("\x1a$" + REQUEST_ID),
    st.just("2$" + REQUEST_ID),
)


def of_a_copy_without_request_id(request: Any) -> bytes:
    """Computes the fingerprint as in the first release, because both releases share records during an upgrade."""
    copy = type(request)()
    copy.CopyFrom(request)
    copy.ClearField("request_id")
    content = request.DESCRIPTOR.full_name.encode() + b"\0" + copy.SerializeToString(deterministic=True)
    return blake2b(content, digest_size=16).digest()


@given(st.sampled_from(REQUESTS), st.data())
def test_a_fingerprint_ignores_the_request_id(kind: Any, data: st.DataObject) -> None:
    request = kind(request_id=REQUEST_ID)
    for field in kind.DESCRIPTOR.fields:
        if field.name == "metadata" and data.draw(st.booleans()):
            request.metadata.update(data.draw(st.dictionaries(texts, texts, max_size=4)))
        elif field.name == "update_mask":
            request.update_mask.paths.extend(data.draw(st.lists(texts, max_size=3)))
        elif field.type == FieldDescriptor.TYPE_BOOL:
            setattr(request, field.name, data.draw(st.booleans()))
        elif field.type == FieldDescriptor.TYPE_STRING and field.name != "request_id" and data.draw(st.booleans()):
            setattr(request, field.name, data.draw(texts))
    request.MergeFromString(b"\xfa\x7f\x06canary")  # an unknown field
    before = request.SerializeToString(deterministic=True)

    assert fingerprint(request) == of_a_copy_without_request_id(request)
    assert request.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.DESCRIPTOR.name)
def test_request_id_and_all_fields_before_it_can_be_skipped(kind: Any) -> None:
    for field in kind.DESCRIPTOR.fields:
        if field.number <= kind.DESCRIPTOR.fields_by_name["request_id"].number:
            assert field.number < 16
            assert field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE)


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.DESCRIPTOR.name)
def test_no_field_after_the_request_id_can_end_like_a_request_id(kind: Any) -> None:
    """A request that ends with the bytes of its request_id field then ends with this field."""
    after = [
        field for field in kind.DESCRIPTOR.fields if field.number > kind.DESCRIPTOR.fields_by_name["request_id"].number
    ]
    assert [
        field.name for field in after if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    ] == []
    assert {field.message_type.name for field in after if field.message_type} <= {"Timestamp", "Duration"}


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.DESCRIPTOR.name)
@pytest.mark.parametrize("unknown", [b"", b"\xfa\x7f\x06canary"])
def test_a_fingerprint_does_not_depend_on_the_request_id(kind: Any, unknown: bytes) -> None:
    requests = [kind(user_id="ada", request_id=each) for each in (REQUEST_ID, REQUEST_ID[::-1])]
    for request in requests:
        request.MergeFromString(unknown)
        assert fingerprint(request) == of_a_copy_without_request_id(request)


def test_requests_of_different_methods_differ() -> None:
    assert len({fingerprint(kind(user_id="ada", request_id=REQUEST_ID)) for kind in REQUESTS}) == len(REQUESTS) == 8
