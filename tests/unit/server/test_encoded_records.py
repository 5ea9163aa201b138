"""Records are found, checked and joined by their bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userservice.v1.session_pb2 import Session
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import GetUserResponse, ListUsersResponse
from userservice_server.wire.records import (
    cursor_of,
    decode,
    frame,
    has_key,
    have_keys,
    id_field,
    key_field,
    record_id,
    total_size_field,
)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
ids = st.integers(1, 2**53)


@given(names, ids, names)
def test_a_record_is_a_response_and_has_its_key_and_id(name: str, number: int, email: str) -> None:
    user = User(user_id=name, id=number, email=email)
    record = frame(user)

    assert GetUserResponse.FromString(record).user == user
    assert decode(User, record) == user
    assert record_id(record) == number
    assert has_key(record, name, "")


@given(names, names, ids)
def test_a_user_has_only_its_documented_keys(name: str, other: str, number: int) -> None:
    record = frame(User(user_id=name, id=number))
    assert has_key(record, other, "") == (name == other)


@given(names, names, names, ids)
def test_a_session_is_visible_only_under_its_user(name: str, owner: str, other: str, number: int) -> None:
    record = frame(Session(session_id=name, id=number, user_id=owner))
    assert has_key(record, name, owner)
    assert has_key(record, name, other) == (owner == other)


@pytest.mark.parametrize("other", ["user1", "user123", "use", "", "user12\n"])
def test_keys_with_a_common_start_differ(other: str) -> None:
    assert not has_key(frame(User(user_id="user12", id=7)), other, "")


keys = names.filter(lambda name: len(name.encode()) <= 256)
fillers = st.integers(0, 400) | st.sampled_from([16_000, 16_500]) | st.integers(16_300, 16_390)


@given(st.lists(st.tuples(keys, ids, fillers), max_size=5), st.data())
def test_many_records_have_their_keys_if_each_has_its_own(
    stored: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    records = [frame(User(user_id=key, id=number, email="x" * size)) for key, number, size in stored]
    asked = [key for key, _, _ in stored]
    assert have_keys(records, asked)

    for position, key in enumerate(asked):
        other = data.draw(keys | st.sampled_from([key + "x", key[:-1], key[::-1]]))
        changed = [*asked[:position], other, *asked[position + 1 :]]
        if len(other.encode()) <= 256:
            assert have_keys(records, changed) == (other == key)
    assert have_keys(records, asked[::-1]) == (asked == asked[::-1])


@pytest.mark.parametrize("size", [0, 1, 2, 99, 100, 101, 102, 103, 16_000])
def test_the_start_of_a_record_follows_from_its_size(size: int) -> None:
    """Around the sizes at which the length in the frame takes one byte more."""
    for more in range(300):
        record = frame(User(user_id="ada", id=7, email="x" * (size + more)))
        assert have_keys([record], ["ada"])
        assert not have_keys([record], ["bob"])


def test_records_and_keys_have_one_number() -> None:
    record = frame(User(user_id="ada", id=7))
    assert not have_keys([record], ["ada", "ada"])
    assert not have_keys([record, record], ["ada"])


@given(names, ids, st.integers(0, 2**53))
def test_a_page_is_the_concatenation_of_its_records_and_its_other_fields(
    name: str, number: int, total_size: int
) -> None:
    record = frame(User(user_id=name, id=number))
    cursor_field = id_field(record)
    response = ListUsersResponse.FromString(record + record + cursor_field + total_size_field(total_size))
    assert [(user.user_id, user.id) for user in response.users] == [(name, number)] * 2
    assert (response.next_cursor, response.total_size) == (number, total_size)
    assert (cursor_of(cursor_field), cursor_of(b"")) == (number, 0)


@given(names)
def test_the_key_field_equals_the_encoding_of_protobuf(name: str) -> None:
    assert key_field(name) == User(user_id=name).SerializeToString()
