"""Rules of metadata: what may be stored, and how a patch is merged."""

import math
from collections.abc import Iterator

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from userservice_server.errors import Violation

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16


def violations(metadata: Struct, field: str) -> Iterator[Violation]:
    """Yields what makes ``metadata`` unfit to be stored; ``field`` is its path in the request."""
    size = metadata.ByteSize()
    if size > MAX_BYTES:
        yield Violation(field, f"must be at most {MAX_BYTES} bytes encoded, is {size}")
        return  # not looked through: it is too much
    yield from _struct_violations(metadata, field, 1)


def _struct_violations(struct: Struct, path: str, depth: int) -> Iterator[Violation]:
    # Keys are the caller's data and may be personal, so a path ends at the metadata field itself.
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
        # Protobuf can carry such a Value, JSON cannot: it could be written and never be printed again.
        yield Violation(path, "holds a google.protobuf.Value without a kind")


def merge(target: Struct, patch: Struct) -> None:
    """Merges ``patch`` into ``target`` in place, as RFC 7396 (JSON Merge Patch), section 2, says."""
    for key, value in patch.fields.items():
        kind = value.WhichOneof("kind")
        if kind == "null_value":
            target.fields.pop(key, None)
        elif kind == "struct_value":
            # A patch is merged even into what is not there or is no object: that is how its nulls get removed.
            nested = target.fields[key].struct_value
            nested.SetInParent()
            merge(nested, value.struct_value)
        else:
            target.fields[key].CopyFrom(value)
