"""Converts metadata between plain Python values and google.protobuf.Struct.

All numbers in a Struct are IEEE 754 doubles. A double represents integers up to ±2^53 exactly; they are decoded as int.
A larger integer would silently be rounded, so the client rejects it before sending anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from userservice.errors import FieldViolation

MAX_WHOLE_NUMBER = 2**53
"""The largest absolute value of an integer in metadata."""

MAX_DEPTH = 16
"""Maximum depth of metadata: metadata itself is level 1, and each nested object or list adds a level."""

_SENDABLE_DEPTH = 30
"""Maximum depth that the client sends.

Metadata between this limit and MAX_DEPTH is sent, because the service reports it together with all other invalid
fields. Deeper metadata, such as a dict that contains itself, is rejected by the client: each object takes three levels
of messages, and a protobuf parser rejects more than 100 levels with an error that names no field.
"""


def metadata_from_bytes(encoded: bytes) -> dict[str, Any]:
    """Decodes an encoded Struct.

    Args:
        encoded: A serialised google.protobuf.Struct; empty bytes are an empty Struct.

    Returns:
        A new dict. Its values are None, bool, int (integers within ±2^53), float, str, list and dict. The keys of every
        dict are sorted by code point, because a map field has no order on the wire.

    Raises:
        google.protobuf.message.DecodeError: If the bytes are not a Struct.
    """
    return _to_dict(Struct.FromString(encoded).fields)


def _to_dict(fields: Mapping[str, Value]) -> dict[str, Any]:
    # Looking up each key is faster than iterating over the items of a protobuf map. Strings, the most frequent kind,
    # are read without a call of `_to_python`, which saves as much time as sorting costs.
    plain: dict[str, Any] = {}
    for key in sorted(fields):
        value = fields[key]
        plain[key] = value.string_value if value.HasField("string_value") else _to_python(value)
    return plain


def _to_python(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    # Ordered by how often they occur in real metadata.
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        number = value.number_value
        # An integer beyond the limit stays a float, because its last digits may have been rounded.
        return int(number) if -MAX_WHOLE_NUMBER <= number <= MAX_WHOLE_NUMBER and number.is_integer() else number
    if kind == "struct_value":
        return _to_dict(value.struct_value.fields)
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [_to_python(item) for item in value.list_value.values]
    return None


def metadata_to_bytes(metadata: Mapping[str, Any]) -> bytes:
    """Encodes metadata as a Struct. Equal metadata is encoded as equal bytes.

    Raises:
        ValueError: If a Struct cannot represent the metadata; the message names all invalid values by their path.
    """
    struct = Struct()
    violations = fill_struct(struct, metadata, "metadata")
    if violations:
        raise ValueError("; ".join(f"{violation.field}: {violation.description}" for violation in violations))
    return struct.SerializeToString(deterministic=True)


def fill_struct(struct: Struct, metadata: object, path: str) -> list[FieldViolation]:
    """Writes a mapping into an empty Struct.

    Args:
        struct: The Struct to fill. It counts as present afterwards, even if the mapping is empty.
        metadata: The mapping: str keys; values None, bool, int, float, str, list, tuple or mapping.
        path: The first part of the field of each violation, such as `metadata`.

    Returns:
        All violations; empty if the metadata is valid. If there are violations, the Struct is incomplete and must not
        be used.
    """
    writer = _Writer()
    struct.SetInParent()
    if isinstance(metadata, (dict, Mapping)):
        writer.write_object(struct, metadata, path)
    else:
        writer.refuse(path, f"must be a mapping, not {type(metadata).__name__}")
    return writer.violations


class _Writer:
    """Writes one metadata mapping into a Struct, and collects all violations in it."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []
        # The identities of the objects and lists from the root to the current one. Their number is the depth.
        self._ancestors: list[int] = []

    def refuse(self, path: str, description: str) -> None:
        self.violations.append(FieldViolation(path, description))

    def write_object(self, struct: Struct, mapping: Mapping[Any, object], path: str) -> None:
        if not self._enter(mapping, path):
            return
        fields = struct.fields
        for key, value in mapping.items():
            if not isinstance(key, str):
                self.refuse(path, f"keys must be strings, not {type(key).__name__}")
            elif not is_unicode(key):
                self.refuse(f"{path}.{printable(key)}", "the key has a lone surrogate, which UTF-8 cannot encode")
            elif not _write_plain(fields[key], value):
                self._write_other(fields[key], value, f"{path}.{key}")
        self._ancestors.pop()

    def _write_list(self, target: Value, items: Iterable[object], path: str) -> None:
        if not self._enter(items, path):
            return
        target.list_value.SetInParent()
        for index, item in enumerate(items):
            added = target.list_value.values.add()
            if not _write_plain(added, item):
                self._write_other(added, item, f"{path}[{index}]")
        self._ancestors.pop()

    def _enter(self, container: object, path: str) -> bool:
        """Enters an object or list. Returns False if it contains itself or is too deep."""
        if id(container) in self._ancestors:
            self.refuse(path, "must not contain itself")
            return False
        if len(self._ancestors) == _SENDABLE_DEPTH:
            self.refuse(path, f"must be at most {MAX_DEPTH} levels deep, where metadata itself is the first")
            return False
        self._ancestors.append(id(container))
        return True

    def _write_other(self, target: Value, value: object, path: str) -> None:
        """Writes a value that `_write_plain` does not write, or collects the violation."""
        if value is None:
            target.null_value = 0  # type: ignore[assignment]  # NULL_VALUE, the only value of its enum
        elif isinstance(value, str):
            self.refuse(path, "has a lone surrogate, which UTF-8 cannot encode")
        elif isinstance(value, float) and not math.isfinite(value):
            self.refuse(path, "must be a finite number: NaN and the infinities are not JSON")
        elif isinstance(value, (int, float)):
            # Every double of this size is an integer.
            self.refuse(path, "a whole number must be within ±2^53, or it would be rounded; send it as a string")
        elif isinstance(value, (dict, Mapping)):  # dict first, because the check of an abstract class is slow
            target.struct_value.SetInParent()
            self.write_object(target.struct_value, value, path)
        elif isinstance(value, (list, tuple)):
            self._write_list(target, value, path)
        else:
            self.refuse(
                path, f"must be None, bool, int, float, str, list, tuple or mapping, not {type(value).__name__}"
            )


def _write_plain(target: Value, value: object) -> bool:
    """Writes a valid text, bool or number; returns whether the value was written.

    Almost all values are of these kinds, and imports write millions of them. The path of a value, which only violations
    and containers need, is therefore made later.
    """
    if isinstance(value, str):
        if not is_unicode(value):
            return False
        target.string_value = value
    elif isinstance(value, bool):  # before int, because bool is a subclass of int
        target.bool_value = value
    elif isinstance(value, (int, float)):
        if not -MAX_WHOLE_NUMBER <= value <= MAX_WHOLE_NUMBER:  # also NaN, which compares as False
            return False
        target.number_value = float(value)
    else:
        return False
    return True


def is_unicode(text: str) -> bool:
    """Returns whether UTF-8 can encode the text. It cannot encode a lone surrogate (half of a surrogate pair)."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """Returns the text with lone surrogates written as escapes, so that a message that contains it can be printed."""
    return text.encode(errors="backslashreplace").decode()
