"""Checks metadata against its limits, and merges patches into it."""

import math
from collections.abc import Iterator

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from userservice_server.errors import Violation

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16


def violations(metadata: Struct, field: str) -> Iterator[Violation]:
    """Yields the rules that ``metadata`` breaks; ``field`` is the path of the metadata in the request."""
    size = metadata.ByteSize()
    if size > MAX_BYTES:
        yield Violation(field, f"must be at most {MAX_BYTES} bytes encoded, is {size}")
        return  # too large to check every value
    yield from _struct_violations(metadata, field, 1)


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
