from typing import Any
from uuid import UUID

import pytest

from userservice import InvalidArgumentError
from userservice.metadata import metadata_from_bytes
from userservice.requests import (
    AddSessionFields,
    AddUserFields,
    UpdateSessionFields,
    UpdateUserFields,
    build_request,
    merge_fields,
    with_request_id,
)
from userservice.v1 import session_service_pb2 as sessions
from userservice.v1 import user_service_pb2 as users


def fields_of_violations(request: type[Any], fields: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidArgumentError) as caught:
        build_request(request, fields)
    return [violation.field for violation in caught.value.violations]


@pytest.mark.parametrize(
    ("typed", "request_class"),
    [
        (AddUserFields, users.AddUserRequest),
        (UpdateUserFields, users.UpdateUserRequest),
        (AddSessionFields, sessions.AddSessionRequest),
        (UpdateSessionFields, sessions.UpdateSessionRequest),
    ],
)
def test_the_typed_fields_match_the_request(typed: Any, request_class: Any) -> None:
    assert set(typed.__annotations__) == set(request_class.DESCRIPTOR.fields_by_name)


def test_all_fields_reach_the_message() -> None:
    request = build_request(
        users.UpdateUserRequest,
        {
            "user_id": "ü",
            "email": "",
            "last_name": "x",
            "metadata": {"a": [None]},
            "update_mask": ("email", "metadata"),
            "etag": "e",
        },
    )
    assert request.user_id == "ü"
    assert request.HasField("email")
    assert not request.HasField("first_name")
    assert metadata_from_bytes(request.metadata.SerializeToString()) == {"a": [None]}
    assert list(request.update_mask.paths) == ["email", "metadata"]


def test_none_counts_as_absent() -> None:
    fields = dict.fromkeys(users.UpdateUserRequest.DESCRIPTOR.fields_by_name)
    assert build_request(users.UpdateUserRequest, fields).SerializeToString() == b""


def test_an_empty_update_mask_and_empty_metadata_are_sent() -> None:
    request = build_request(users.UpdateUserRequest, {"metadata": {}, "update_mask": []})
    assert request.HasField("metadata")
    assert request.HasField("update_mask")


def test_the_error_for_an_unknown_field_lists_the_known_fields() -> None:
    with pytest.raises(InvalidArgumentError, match=r"emial: is not a field; the fields are user_id, email, "):
        build_request(users.AddUserRequest, {"user_id": "u", "emial": "x"})


def test_an_error_contains_all_violations() -> None:
    bad = {"user_id": 3, "emial": "", "email": b"", "metadata": {"a": {1}, "b": float("nan")}, "first_name": "\ud800"}
    assert fields_of_violations(users.AddUserRequest, bad) == [
        "user_id",
        "emial",
        "email",
        "metadata.a",
        "metadata.b",
        "first_name",
    ]


@pytest.mark.parametrize("value", ["email", b"email", {"email": 1}, 3])
def test_a_string_is_not_accepted_as_a_list_of_strings(value: object) -> None:
    assert fields_of_violations(users.UpdateUserRequest, {"update_mask": value}) == ["update_mask"]
    assert fields_of_violations(users.BatchGetUsersRequest, {"user_ids": value}) == ["user_ids"]


def test_the_error_names_invalid_items_of_a_list() -> None:
    ids = ["a", 2, "c", None]
    assert fields_of_violations(users.BatchGetUsersRequest, {"user_ids": ids}) == ["user_ids[1]", "user_ids[3]"]


def test_any_iterable_of_user_ids_is_accepted() -> None:
    request = build_request(users.BatchGetUsersRequest, {"user_ids": (name for name in "ab")})
    assert list(request.user_ids) == ["a", "b"]


@pytest.mark.parametrize("value", ["10", 1.0, True, 2**31, -(2**31) - 1])
def test_a_limit_that_is_not_a_32_bit_integer_is_rejected(value: object) -> None:
    assert fields_of_violations(users.ListUsersRequest, {"limit": value}) == ["limit"]


def test_integers_at_the_limits_of_their_range() -> None:
    request = build_request(users.ListUsersRequest, {"limit": -(2**31), "cursor": 2**63 - 1})
    assert (request.limit, request.cursor) == (-(2**31), 2**63 - 1)
    assert fields_of_violations(users.ListUsersRequest, {"cursor": 2**63}) == ["cursor"]


def test_a_mapping_and_keywords_are_merged() -> None:
    mapping = {"user_id": "u"}
    assert merge_fields(mapping, {"etag": "e"}) == {"user_id": "u", "etag": "e"}
    assert mapping == {"user_id": "u"}


def test_a_field_given_twice_is_rejected() -> None:
    with pytest.raises(TypeError, match="user_id"):
        merge_fields({"user_id": "u"}, {"user_id": "u"})


def test_a_value_that_is_not_a_mapping_is_rejected() -> None:
    with pytest.raises(TypeError, match="str"):
        merge_fields("user123", {})  # type: ignore[arg-type]


def test_a_write_without_a_request_id_gets_one() -> None:
    assert with_request_id({"request_id": "mine"})["request_id"] == "mine"
    made = {with_request_id({"request_id": None})["request_id"] for _ in range(10)}
    assert len(made) == 10
    assert all(UUID(request_id).version == 4 for request_id in made)
