"""Writes users as JSON text without decoding their metadata into Python objects.

`User.to_json` uses this module. A program that writes millions of users as JSON would otherwise spend most of its time
on building dicts that it does not need. The functions raise ValueError or IndexError for input that they do not
support; the caller then encodes the decoded metadata, which is slower.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from operator import attrgetter
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
_CONTAINERS = (_STRUCT, _LIST)

_ONE_BYTE = 0x7F  # the largest length that is encoded in one byte
_DOUBLE = Layout("<xd")  # after a tag
_LARGEST_EXACT = 2**53
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANOS = 1_000_000_000

# Most users of a service have the same keys in their metadata, and many have the same short values. The texts of short
# members of objects are therefore kept. Frequent members occur early, so nothing is replaced when a dict is full.
_MOST_KEPT = 4096
_LONGEST_KEPT = 64  # bytes
_kept_members: dict[bytes, tuple[bytes, str]] = {}
_kept_keys: dict[bytes, str] = {}

# One call reads all fields in C.
_fields = attrgetter(
    "user_id", "id", "uuid", "email", "first_name", "last_name", "metadata", "created_at", "updated_at", "etag"
)


def user_text(message: User) -> str:
    """Returns a user as JSON text: the same text as `json.dumps(user.to_dict(mode="json"), ensure_ascii=False)`.

    Args:
        message: A decoded user whose metadata is still encoded; see `_messages.py`.
    """
    user_id, number, uuid, email, first_name, last_name, metadata, created_at, updated_at, etag = _fields(message)
    created = time_text(created_at)
    updated = created if updated_at == created_at else time_text(updated_at)  # most users are never updated
    return (
        f'{{"user_id": {quoted(user_id)}, "id": {number}, "uuid": {quoted(uuid)}, "email": {quoted(email)}, '
        f'"first_name": {quoted(first_name)}, "last_name": {quoted(last_name)}, '
        f'"metadata": {object_text(metadata, 0, len(metadata))}, '
        f'"created_at": "{created}", "updated_at": "{updated}", "etag": {quoted(etag)}}}'
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
    members: list[tuple[bytes, str]] = []
    # The service writes keys in the order of code points, which is the order of UTF-8, so sorting is rarely needed.
    is_sorted, last = True, None
    while position < end:
        length = data[position + 1]
        if length <= _ONE_BYTE:  # the most frequent lengths are read without a call
            stop = position + 2 + length
        else:
            length, start = _long(data, length, position + 2)
            stop = start + length
        encoded = data[position:stop]
        member = _kept_members.get(encoded) or _member(encoded)
        if last is not None and member[0] <= last:
            is_sorted = False
        last = member[0]
        members.append(member)
        position = stop
    if position != end:
        raise ValueError("truncated")
    if not is_sorted:
        members = sorted(dict(members).items())  # the last of several members with one key counts
    return "{" + ", ".join([text for _, text in members]) + "}"


def _member(encoded: bytes) -> tuple[bytes, str]:
    """Returns the key of an encoded member of a Struct, and its key and value as JSON text."""
    end = len(encoded)
    key_end = 4 + encoded[3]
    value_length = encoded[key_end + 1]
    position = key_end + 2
    is_short = end <= _ONE_BYTE and encoded[1] == end - 2  # then all lengths are one byte
    if (
        is_short
        and encoded[0] == encoded[2] == _FIRST
        and encoded[key_end] == _SECOND
        and position + value_length == end
    ):
        key = encoded[4:key_end]
    else:
        key, position = _long_member(encoded)
    key_text = _kept_keys.get(key) or _key_text(key)
    tag = encoded[position] if position < end else _NULL
    if tag == _STRING and is_short and encoded[position + 1] == end - position - 2:
        member = key, key_text + quoted(encoded[position + 2 :].decode())
    else:
        member = key, key_text + _value_text(encoded, position, end)
    if len(_kept_members) < _MOST_KEPT and end <= _LONGEST_KEPT and tag not in _CONTAINERS:
        _kept_members[encoded] = member
    return member


def _long_member(encoded: bytes) -> tuple[bytes, int]:
    """Returns the key of a member and the position of its value, for lengths of several bytes."""
    end = len(encoded)
    first, position = _head(encoded, 0)
    is_whole = position + first == end
    length, position = _head(encoded, position)
    key = encoded[position : position + length]
    position += length
    tag = encoded[position]
    length = encoded[position + 1]
    position += 2
    if length > _ONE_BYTE:
        length, position = _long(encoded, length, position)
    if not is_whole or tag != _SECOND or position + length != end:
        raise ValueError("not a member of a Struct")
    return key, position


def _key_text(key: bytes) -> str:
    text = f"{quoted(key.decode())}: "
    if len(_kept_keys) < _MOST_KEPT and len(key) <= _LONGEST_KEPT:
        _kept_keys[key] = text
    return text


def _head(data: bytes, position: int) -> tuple[int, int]:
    """Decodes the tag 1 and a length; returns the length and the position after it."""
    if data[position] != _FIRST:
        raise ValueError("not a member of a Struct")
    length = data[position + 1]
    return (length, position + 2) if length <= _ONE_BYTE else _long(data, length, position + 2)


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
