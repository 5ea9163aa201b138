"""Merging of google.protobuf.Struct by RFC 7396, and the limits of metadata."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from userservice_server.domain import metadata as rules
from userservice_server.domain.metadata import MAX_BYTES, MAX_DEPTH, merge, violations

scalars = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(st.text(max_size=2), values, max_size=4)


def struct(content: dict[str, Any]) -> Struct:
    return ParseDict(content, Struct())


def merged(target: Any, patch: Any) -> Any:
    """Merges plain Python values as in the pseudo-code of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merged(target.get(name), value)
    return target


@given(objects, objects)
def test_merge_follows_the_rfc(target: dict[str, Any], patch: dict[str, Any]) -> None:
    result = struct(target)
    merge(result, struct(patch))
    assert MessageToDict(result) == merged(target, patch)


@given(objects)
def test_json_values_are_accepted(content: dict[str, Any]) -> None:
    assert not list(violations(struct(content), "metadata"))


def nested(levels: int, *, in_lists: bool) -> dict[str, Any]:
    content: Any = {"leaf": 1}
    for level in range(levels - 1):
        content = [content] if in_lists and level < levels - 2 else {"in": content}
    return dict(content)


@pytest.mark.parametrize("in_lists", [False, True])
def test_the_depth_limit_is_enforced_exactly(in_lists: bool) -> None:  # noqa: FBT001 - pytest passes it by name
    assert not list(violations(struct(nested(MAX_DEPTH, in_lists=in_lists)), "metadata"))
    found = list(violations(struct(nested(MAX_DEPTH + 1, in_lists=in_lists)), "metadata"))
    assert [violation.field for violation in found] == ["metadata"]
    assert "16" in found[0].description


def test_the_size_limit_is_enforced_exactly() -> None:
    content = struct({"text": ""})
    content["text"] = "x" * (MAX_BYTES - content.ByteSize())
    while content.ByteSize() > MAX_BYTES:
        content["text"] = str(content["text"])[:-1]
    assert content.ByteSize() == MAX_BYTES
    assert not list(violations(content, "metadata"))

    content["text"] = str(content["text"]) + "x"
    assert ["65536" in violation.description for violation in violations(content, "metadata")] == [True]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_cannot_represent_are_rejected(number: float) -> None:
    content = Struct()
    content.fields["list"].list_value.values.add().number_value = number
    assert len(list(violations(content, "metadata"))) == 1


def test_a_value_without_kind_is_rejected() -> None:
    content = Struct()
    content.fields["empty"].CopyFrom(Value())
    assert len(list(violations(content, "metadata"))) == 1
    without_value = Struct.FromString(b"\x0a\x03\x0a\x01k")  # an entry that has a key only
    assert len(list(violations(without_value, "metadata"))) == 1


def test_a_violation_does_not_name_the_callers_keys() -> None:
    content = Struct()
    content.fields["jane@example.org"].number_value = float("nan")
    assert "jane" not in repr(list(violations(content, "metadata")))


numbers = st.floats() | st.sampled_from([float("nan"), float("inf"), float("-inf")])


@st.composite
def any_values(draw: st.DrawFn, levels: int = 18) -> Value:
    """A Value that may break every rule: without a kind, with a number that is not finite, or nested too deep."""
    value = Value()
    match draw(st.sampled_from(["none", "number", "text", "struct", "list", "deeper"])):
        case "number":
            value.number_value = draw(numbers)
        case "text":
            value.string_value = draw(st.text("a2*\x00\x7f\n\x12ÿ", max_size=20))
        case "struct":
            value.struct_value.fields[draw(st.text("a\n", max_size=1))].CopyFrom(draw(any_values(0)))
        case "list":
            value.list_value.values.append(draw(any_values(0)))
        case "deeper":
            value.bool_value = True
            for _ in range(draw(st.integers(0, levels))):
                outer = Value()
                if draw(st.booleans()):
                    outer.struct_value.fields["k"].CopyFrom(value)
                else:
                    outer.list_value.values.append(value)
                value = outer
    return value


@given(st.lists(any_values(), max_size=2))
def test_the_check_of_encoded_metadata_accepts_nothing_that_breaks_a_rule(content: list[Value]) -> None:
    metadata = Struct()
    for number, value in enumerate(content):
        metadata.fields[f"k{number}"].CopyFrom(value)
    encoded = metadata.SerializeToString()

    found = list(rules._struct_violations(metadata, "metadata", 1))

    assert list(violations(metadata, "metadata")) == found
    assert not (found and rules.is_surely_valid(encoded))


def test_small_metadata_needs_the_check_of_its_bytes_only() -> None:
    content = {
        "plan": "free",
        "logins": 312,
        "ratio": -0.5,
        "newsletter": False,
        "address": {"city": "Łódź", "lines": []},
    }
    assert rules.is_surely_valid(struct(content).SerializeToString())
