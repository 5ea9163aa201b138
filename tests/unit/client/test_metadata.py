import math
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from userservice.errors import FieldViolation
from userservice.metadata import _SENDABLE_DEPTH, MAX_DEPTH, MAX_WHOLE_NUMBER, fill_struct, metadata_from_bytes
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import AddUserRequest

numbers = (
    st.integers(-MAX_WHOLE_NUMBER, MAX_WHOLE_NUMBER)
    | st.floats(-MAX_WHOLE_NUMBER, MAX_WHOLE_NUMBER)
    | st.sampled_from([MAX_WHOLE_NUMBER, -MAX_WHOLE_NUMBER, 0.1, -0.0, 5e-324])
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def encode(metadata: object) -> bytes:
    struct = Struct()
    violations = fill_struct(struct, metadata, "metadata")
    assert violations == []
    return struct.SerializeToString()


def violations_of(metadata: object) -> list[FieldViolation]:
    return fill_struct(Struct(), metadata, "metadata")


def nested(levels: int) -> dict[str, Any]:
    return {"a": nested(levels - 1)} if levels > 1 else {}


@given(st.dictionaries(texts, values, max_size=5))
def test_metadata_survives_encoding_and_decoding(metadata: dict[str, Any]) -> None:
    assert metadata_from_bytes(encode(metadata)) == metadata


@given(numbers)
def test_integers_are_decoded_as_int_and_other_numbers_as_float(number: float) -> None:
    back = metadata_from_bytes(encode({"n": number}))["n"]
    assert back == number
    assert type(back) is (int if float(number).is_integer() else float)


def test_booleans_do_not_become_numbers() -> None:
    back = metadata_from_bytes(encode({"yes": True, "no": False, "one": 1}))
    assert [type(value) for value in back.values()].count(bool) == 2


def test_tuples_and_other_mappings_are_accepted() -> None:
    class Settings(dict[str, int]):
        pass

    assert metadata_from_bytes(encode({"t": (1, 2), "m": Settings(a=1)})) == {"t": [1, 2], "m": {"a": 1}}


def test_a_large_integer_of_another_client_is_decoded_as_a_float() -> None:
    struct = Struct()
    struct["n"] = 2.0**60
    assert repr(metadata_from_bytes(struct.SerializeToString())) == repr({"n": 2.0**60})


def test_each_read_makes_a_new_dict() -> None:
    encoded = encode({"a": {}})
    assert metadata_from_bytes(encoded)["a"] is not metadata_from_bytes(encoded)["a"]


def test_an_empty_mapping_counts_as_present() -> None:
    user = User()
    assert fill_struct(user.metadata, {}, "metadata") == []
    assert user.HasField("metadata")


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (MAX_WHOLE_NUMBER + 1, "2^53"),
        (-MAX_WHOLE_NUMBER - 1, "2^53"),
        (1e300, "2^53"),
        (10**400, "2^53"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        (-math.inf, "finite"),
        (b"bytes", "bytes"),
        ({1, 2}, "set"),
        (object(), "object"),
        ("\ud800", "surrogate"),
    ],
)
def test_values_that_a_struct_cannot_represent_are_rejected_with_their_path(value: object, word: str) -> None:
    [violation] = violations_of({"a": {"b": [0, 1, 2, value]}})
    assert violation.field == "metadata.a.b[3]"
    assert word in violation.description


def test_an_error_contains_all_violations() -> None:
    found = violations_of({"a": math.nan, "b": [b"", 1, {"c": 2**60}], 3: "x", "\udc00": 1})
    assert [violation.field for violation in found] == [
        "metadata.a",
        "metadata.b[0]",
        "metadata.b[2].c",
        "metadata",
        r"metadata.\udc00",
    ]


@pytest.mark.parametrize("metadata", ["text", 1, [("a", 1)]])
def test_metadata_that_is_not_a_mapping_is_rejected(metadata: object) -> None:
    [violation] = violations_of(metadata)
    assert violation.field == "metadata"


def test_metadata_too_deep_for_the_service_but_not_for_parsers_is_sent() -> None:
    encoded = AddUserRequest(metadata=Struct.FromString(encode(nested(_SENDABLE_DEPTH)))).SerializeToString()
    assert AddUserRequest.FromString(encoded).HasField("metadata")


def test_metadata_too_deep_for_parsers_is_rejected_with_the_limit_of_the_service() -> None:
    [violation] = violations_of(nested(_SENDABLE_DEPTH + 1))
    assert violation.field == "metadata" + ".a" * _SENDABLE_DEPTH
    assert str(MAX_DEPTH) in violation.description


def test_lists_count_as_levels() -> None:
    lists: list[Any] = []
    for _ in range(_SENDABLE_DEPTH - 2):
        lists = [lists]
    assert violations_of({"a": lists}) == []
    assert len(violations_of({"a": [lists]})) == 1


def test_nesting_far_beyond_the_limits_is_rejected_immediately() -> None:
    assert len(violations_of(nested(500))) == 1


def test_metadata_that_contains_itself_is_rejected() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = [loop, loop]
    fields = [violation.field for violation in violations_of(loop)]
    assert fields == ["metadata.again[0]", "metadata.again[1]"]


def test_the_same_object_twice_is_not_a_cycle() -> None:
    shared = {"x": 1}
    assert metadata_from_bytes(encode({"a": shared, "b": shared})) == {"a": shared, "b": shared}
