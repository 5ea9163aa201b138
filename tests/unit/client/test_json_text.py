"""`User.to_json` writes encoded metadata without decoding it; the text is the same as that of decoded metadata."""

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from userservice import InternalError, User, _json_text
from userservice._columns import json_texts, metadata_texts, times
from userservice._json_text import UNEXPECTED, object_text, user_text
from userservice.metadata import metadata_from_bytes, metadata_to_bytes
from userservice.v1.user_pb2 import User as UserMessage

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), TEXT
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
METADATA = st.dictionaries(TEXT, VALUES, max_size=5)
TIMES = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


def storable(value: Any) -> bool:
    if isinstance(value, float):
        return not value.is_integer() or abs(value) <= 2**53
    if isinstance(value, dict):
        return all(map(storable, value.values()))
    return not isinstance(value, list) or all(map(storable, value))


@settings(max_examples=50)
@given(METADATA.filter(storable), TEXT, TIMES, TIMES)
def test_the_text_is_the_same_as_that_of_decoded_metadata(
    metadata: dict[str, Any], text: str, created: datetime, updated: datetime
) -> None:
    encoded = bytes(
        User(
            user_id=text, id=2**53 - 1, email=text, last_name=text, metadata=metadata, created_at=created,
            updated_at=updated, etag="e",
        )
    )  # fmt: skip
    user = User.from_bytes(encoded)
    expected = json.dumps(user.to_dict(mode="json"), ensure_ascii=False, allow_nan=False)
    fresh = User.from_bytes(encoded)
    assert [user_text(fresh._message)] == [fresh.to_json()] == json_texts([fresh]) == [expected]
    assert metadata_texts([fresh]) == metadata_texts([user])
    assert json.loads(metadata_texts([fresh])[0]) == user.metadata
    [moment] = times([fresh], "created_at")
    assert moment == (created - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    fresh.metadata["changed"] = 1
    assert json.loads(fresh.to_json())["metadata"]["changed"] == 1


@given(st.binary(max_size=40))
def test_bytes_that_are_no_struct_are_decoded_instead(encoded: bytes) -> None:
    try:
        text = object_text(encoded, 0, len(encoded))
    except UNEXPECTED:
        return
    message = UserMessage(user_id="a")
    user = User.from_bytes(message.SerializeToString() + b"\x3a" + bytes([len(encoded)]) + encoded)
    assert json.loads(text) == user.metadata


@given(st.lists(st.tuples(TEXT, SCALARS.filter(storable)), max_size=6))
def test_keys_in_any_order_are_sorted_and_the_last_of_equal_keys_counts(pairs: list[tuple[str, Any]]) -> None:
    encoded = b"".join(metadata_to_bytes({key: value}) for key, value in pairs)
    expected = metadata_from_bytes(encoded)
    assert object_text(encoded, 0, len(encoded)) == json.dumps(expected, ensure_ascii=False)
    for length in range(len(encoded)):
        with pytest.raises(UNEXPECTED):
            object_text(encoded[:length], 0, len(encoded))


def test_the_kept_texts_are_bounded() -> None:
    for number in range(2 * _json_text._MOST_KEPT):
        encoded = metadata_to_bytes({f"key-{number}": number})
        assert object_text(encoded, 0, len(encoded)) == f'{{"key-{number}": {number}}}'
    large = metadata_to_bytes({"k" * 100: "v", "l": "w" * 100, "nested": {"m": 1}})
    object_text(large, 0, len(large))
    for kept in (_json_text._kept_members, _json_text._kept_keys):
        assert 0 < len(kept) <= _json_text._MOST_KEPT
        assert max(map(len, kept)) <= _json_text._LONGEST_KEPT
    assert not any(b"nested" in encoded for encoded in _json_text._kept_members)


def test_unusual_encodings_and_values_are_decoded_instead() -> None:
    twice = Struct(fields={"a": Value(number_value=1)}).SerializeToString()
    twice += Struct(fields={"a": Value(number_value=2)}).SerializeToString()
    unset = Struct(fields={"a": Value(), "b": Value(list_value=ListValue(values=[Value()]))}).SerializeToString()
    without_key = b"\x0a\x03\x12\x01\x08"
    long = Struct(fields={"k" * 200: Value(string_value="é" * 20_000)}).SerializeToString()
    assert json.loads(object_text(long, 0, len(long))) == {"k" * 200: "é" * 20_000}
    for encoded in (twice, unset):
        user = User.from_bytes(b"\x3a" + bytes([len(encoded)]) + encoded)
        text = user.to_json()
        assert json.loads(text)["metadata"] == user.metadata
    with pytest.raises(UNEXPECTED):
        object_text(without_key, 0, len(without_key))
    infinite = Struct(fields={"a": Value(number_value=math.inf)}).SerializeToString()
    with pytest.raises(ValueError, match="JSON compliant"):
        User.from_bytes(b"\x3a" + bytes([len(infinite)]) + infinite).to_json()
    late = UserMessage(user_id="a")
    late.created_at.seconds = 10**12
    with pytest.raises(InternalError, match="created_at"):
        User.from_bytes(late.SerializeToString()).to_json()
