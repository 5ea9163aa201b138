"""Writes users as JSON text without decoding their metadata into Python objects.

`User.to_json` uses this module. A program that writes millions of users as JSON would otherwise spend most of its time
on building dicts that it does not need. The functions raise ValueError or IndexError for input that they do not
support; the caller then encodes the decoded metadata, which is slower.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - an exception

from google.protobuf.timestamp_pb2 import Timestamp

from userservice.v1.user_pb2 import User

UNEXPECTED = (ValueError, IndexError, OverflowError, LayoutError)
"""The exceptions of this module's functions for input that they do not support."""

# Tags of google.protobuf.Struct and Value: the number of the field and its wire type.
_FIRST, _SECOND = 0x0A, 0x12  # with a length
_ENTRY = (_FIRST, _FIRST, _SECOND)  # an entry of a map, its key and its value
_NULL, _NUMBER, _STRING, _BOOL, _STRUCT, _LIST = 0x08, 0x11, 0x1A, 0x20, 0x2A, 0x32
_SCALARS = (_NUMBER, _BOOL, _NULL)

_ONE_BYTE = 0x7F  # the largest length that is encoded in one byte
_DOUBLE = Layout("<xd")  # after a tag
_LARGEST_EXACT = 2**53
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANOS = 1_000_000_000


def user_text(message: User) -> str:
    """Returns a user as JSON text: the same text as `json.dumps(user.to_dict(mode="json"), ensure_ascii=False)`.

    Args:
        message: A decoded user whose metadata is still encoded; see `_messages.py`.
    """
    metadata: bytes = message.metadata  # type: ignore[assignment]
    created_at, updated_at = message.created_at, message.updated_at
    created = time_text(created_at)
    updated = created if updated_at == created_at else time_text(updated_at)  # most users are never updated
    return (
        f'{{"user_id": {quoted(message.user_id)}, "id": {message.id}, "uuid": {quoted(message.uuid)}, '
        f'"email": {quoted(message.email)}, "first_name": {quoted(message.first_name)}, '
        f'"last_name": {quoted(message.last_name)}, "metadata": {object_text(metadata, 0, len(metadata))}, '
        f'"created_at": "{created}", "updated_at": "{updated}", "etag": {quoted(message.etag)}}}'
    )


def time_text(timestamp: Timestamp) -> str:
    """Returns a time as RFC 3339 text in UTC with microseconds."""
    nanos = timestamp.nanos
    if not 0 <= nanos < _NANOS:
        raise ValueError("nanos out of range")
    return f"{_second_text(timestamp.seconds)}.{nanos // 1000:06d}Z"


@lru_cache(maxsize=4096)  # users that were added together have the same second
def _second_text(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


def object_text(data: bytes, position: int, end: int) -> str:
    """Returns an encoded Struct, which is a part of `data`, as a JSON object with its keys sorted by code point."""
    members: dict[str, str] = {}
    # Lengths of one byte, the most frequent ones, are read without a call.
    while position < end:
        length = data[position + 1]
        first, position = data[position], position + 2
        if length > _ONE_BYTE:
            length, position = _long(data, length, position)
        stop = position + length
        length = data[position + 1]
        second, position = data[position], position + 2
        if length > _ONE_BYTE:
            length, position = _long(data, length, position)
        key = data[position : position + length].decode()
        position += length
        length = data[position + 1]
        third, position = data[position], position + 2
        if length > _ONE_BYTE:
            length, position = _long(data, length, position)
        if (first, second, third) != _ENTRY or position + length != stop:
            raise ValueError("not an entry of a Struct")
        members[key] = _value_text(data, position, stop)
        position = stop
    if position != end:
        raise ValueError("truncated")
    if len(members) == 1:
        return f"{{{quoted(key)}: {members[key]}}}"
    return "{" + ", ".join([f"{quoted(key)}: {members[key]}" for key in sorted(members)]) + "}"


def _value_text(data: bytes, position: int, end: int) -> str:
    if position == end:
        return "null"
    tag = data[position]
    if tag in _SCALARS:
        return _scalar_text(data, position, end)
    length = data[position + 1]
    position += 2
    if length > _ONE_BYTE:
        length, position = _long(data, length, position)
    if position + length == end:
        if tag == _STRING:
            return quoted(data[position:end].decode())
        if tag == _STRUCT:
            return object_text(data, position, end)
        if tag == _LIST:
            return _list_text(data, position, end)
    raise ValueError("not a value with one kind")


def _scalar_text(data: bytes, position: int, end: int) -> str:
    tag = data[position]
    if tag == _NUMBER and position + 9 == end:
        return _number_text(_DOUBLE.unpack_from(data, position)[0])
    if tag != _NUMBER and position + 2 == end and data[position + 1] <= 1:
        return "null" if tag == _NULL else "true" if data[position + 1] else "false"
    raise ValueError("not a number, boolean or null")


def _list_text(data: bytes, position: int, end: int) -> str:
    items: list[str] = []
    while position < end:
        if data[position] != _FIRST:
            raise ValueError("not an item of a list")
        length = data[position + 1]
        position += 2
        if length > _ONE_BYTE:
            length, position = _long(data, length, position)
        items.append(_value_text(data, position, position + length))
        position += length
    if position != end:
        raise ValueError("truncated")
    return "[" + ", ".join(items) + "]"


def _number_text(number: float) -> str:
    if number.is_integer():  # raises nothing for infinities and NaN, which are not integers
        return repr(int(number)) if -_LARGEST_EXACT <= number <= _LARGEST_EXACT else repr(number)
    if number - number != 0:  # infinities and NaN
        raise ValueError("not JSON")
    return repr(number)


def _long(data: bytes, length: int, position: int) -> tuple[int, int]:
    """Decodes the rest of a length whose first byte is given; returns it with the position after it."""
    length &= _ONE_BYTE
    shift = 7
    while True:
        byte = data[position]
        position += 1
        length |= (byte & _ONE_BYTE) << shift
        if byte <= _ONE_BYTE:
            return length, position
        shift += 7
