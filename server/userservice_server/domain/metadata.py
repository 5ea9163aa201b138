"""Checks metadata against its limits, and merges patches into it."""

import math
from collections.abc import Iterator

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from userservice_server.errors import Violation

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16

_STRUCT_TAG, _LIST_TAG = b"\x2a", b"\x32"  # fields 5 and 6 of google.protobuf.Value, length-delimited


def violations(metadata: Struct, field: str) -> Iterator[Violation]:
    """Yields the rules that ``metadata`` breaks; ``field`` is the path of the metadata in the request."""
    encoded = metadata.SerializeToString()
    if len(encoded) > MAX_BYTES:
        yield Violation(field, f"must be at most {MAX_BYTES} bytes encoded, is {len(encoded)}")
        return  # too large to check every value
    if not is_surely_valid(encoded):
        yield from _struct_violations(metadata, field, 1)


def is_surely_valid(encoded: bytes) -> bool:
    """Returns whether encoded metadata certainly breaks no rule of ``_struct_violations``.

    If the result is False, the metadata may still be valid. Searching the bytes takes much less time than a visit of
    each value, and small metadata nearly always passes.
    """
    return (
        # Each level below the first one starts with a tag.
        encoded.count(_STRUCT_TAG) + encoded.count(_LIST_TAG) < MAX_DEPTH
        # The last byte of NaN and of an infinity, in which all bits of the exponent are set, is one of these.
        and b"\x7f" not in encoded
        and b"\xff" not in encoded
        # A Value without a kind is empty: length 0 after the tag of a map's value or of a list's element.
        and b"\x12\x00" not in encoded
        and b"\x0a\x00" not in encoded
    )


def _struct_violations(struct: Struct, path: str, depth: int) -> Iterator[Violation]:
    # Keys in metadata may be personal data, so the reported path is that of the metadata field.
    if depth > MAX_DEPTH:
        yield Violation(path, f"must be at most {MAX_DEPTH} levels deep")
        return
    for value in struct.fields.values():
        yield from _value_violations(value, path, depth)


def _list_violations(items: ListValue, path: str, depth: int) -> Iterator[Violation]:
    if depth > MAX_DEPTH:
        yield Violation(path, f"must be at most {MAX_DEPTH} levels deep")
        return
    for value in items.values:
        yield from _value_violations(value, path, depth)


def _value_violations(value: Value, path: str, depth: int) -> Iterator[Violation]:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        yield from _struct_violations(value.struct_value, path, depth + 1)
    elif kind == "list_value":
        yield from _list_violations(value.list_value, path, depth + 1)
    elif kind == "number_value":
        if not math.isfinite(value.number_value):
            yield Violation(path, "numbers must be finite: JSON has no NaN and no infinities")
    elif kind is None:
        # Protobuf can encode such a Value but JSON cannot, so clients could not convert the record to JSON.
        yield Violation(path, "contains a google.protobuf.Value without a kind")


def merge(target: Struct, patch: Struct) -> None:
    """Merges ``patch`` into ``target`` in place, as section 2 of RFC 7396 (JSON Merge Patch) defines."""
    for key, value in patch.fields.items():
        kind = value.WhichOneof("kind")
        if kind == "null_value":
            target.fields.pop(key, None)
        elif kind == "struct_value":
            # An object is merged even if the target has no object at this key, because a null must not be stored.
            nested = target.fields[key].struct_value
            nested.SetInParent()
            merge(nested, value.struct_value)
        else:
            target.fields[key].CopyFrom(value)
