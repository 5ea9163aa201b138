"""Decodes and checks the rows of an import, each by itself, so that an invalid row fails alone."""

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from enum import Enum
from secrets import token_bytes
from typing import Any, NamedTuple

import uuid_utils
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from userservice.v1.user_pb2 import User
from userservice_server.domain.entities import present_time
from userservice_server.domain.metadata import MAX_BYTES, is_surely_valid
from userservice_server.domain.validation import PLAIN_KEY, Checker
from userservice_server.errors import InvalidFieldsError, ServiceError, Violation
from userservice_server.wire.ids import MAX_ID
from userservice_server.wire.imports import CallersUser, framed_row_error, metadata_of
from userservice_server.wire.records import frame, key_field

StatusField = Callable[[ServiceError], bytes]
"""Encodes an error as the field ``status`` of a RowError."""

_TURN_ROWS, _TURN_BYTES = 16, 32 << 10  # rows, and their bytes, between two turns of the event loop
_ERROR_BYTES = 8 << 10  # the error of an invalid row takes as much time as a row with this number of bytes
_SHORT_BYTES = 256  # no text of a user that is this short exceeds its limit
_SHORT_EMAIL, _SHORT_NAME = 80, 64  # characters; each has at most 4 bytes
_UUID_TAG, _ETAG_TAG = b"\x1a\x24", b"\x52\x0c"  # fields 3 and 10 of User, with the lengths of a UUID and an etag
_ETAG_BYTES, _ETAG_LENGTH = 9, 12  # an etag is random bytes, encoded as 12 characters
_MAX_ETAG_BYTES = 64


class Fields(Enum):
    """The fields that the content of a decoded row has."""

    CALLERS = "those that callers set"
    NEW = "those of a new user, except the id"
    ALL = "all fields, as in the row: the row is restored"


class Row(NamedTuple):
    """A row of an import.

    Attributes:
        number: its number in the import.
        user_id: the key; may be invalid if the row is rejected.
        content: the encoded fields after the key: those that callers set, or, with ``Fields.NEW``, all fields of a new
            user except the id. With ``Fields.ALL``, the whole record.
        error: the framed RowError of a row that is rejected; empty for a valid row.
        id: the id of a row that is restored.
    """

    number: int
    user_id: str
    content: bytes = b""
    error: bytes = b""
    id: int = 0


class RowDecoder:
    """Decodes rows.

    Args:
        status_field: encodes the errors of rows.
        fields: the fields that the content of a row gets.
    """

    def __init__(self, status_field: StatusField, fields: Fields) -> None:
        self._status_field = status_field
        self._fields = fields

    async def decode(self, users: Sequence[bytes], offset: int, first: int) -> list[Row]:
        """Decodes encoded users, of which the first is row ``offset``; leaves out rows below ``first``."""
        rows: list[Row] = []
        decoded: list[Row] = []  # since the last turn
        size = 0
        for index in range(max(offset, first), offset + len(users)):
            row = self._row(index, users[index - offset])
            decoded.append(row)
            size += len(users[index - offset]) + (_ERROR_BYTES if row.error else 0)
            if len(decoded) == _TURN_ROWS or size >= _TURN_BYTES:
                rows += self._finished(decoded)
                decoded, size = [], 0
                await asyncio.sleep(0)  # other calls run
        return rows + self._finished(decoded)

    def _finished(self, rows: list[Row]) -> list[Row]:
        return _with_new_fields(rows) if self._fields is Fields.NEW else rows

    def _row(self, index: int, encoded: bytes) -> Row:
        check = Checker()
        row = (_restored if self._fields is Fields.ALL else _new)(index, encoded, check)
        if not check.violations:
            return row
        error = self._status_field(InvalidFieldsError(check.violations))
        return Row(index, row.user_id, error=framed_row_error(index, error))


def _new(index: int, encoded: bytes, check: Checker) -> Row:
    """Decodes a row with the fields that callers set; other fields are ignored."""
    try:
        user: Any = CallersUser.FromString(encoded)
    except DecodeError:
        return _undecodable(index, check)
    user.DiscardUnknownFields()
    body = user.SerializeToString()
    user_id = user.user_id
    if not (PLAIN_KEY.fullmatch(user_id) and _has_short_texts(user, body) and is_surely_valid(body)):
        check.key("user_id", user_id)
        check.profile(user.email, user.first_name, user.last_name)
        check.metadata(metadata_of(user))
    return Row(index, user_id, body[len(key_field(user_id)) :])


def _has_short_texts(user: Any, body: bytes) -> bool:
    if len(body) <= _SHORT_BYTES:
        return True
    short_name = len(user.first_name) <= _SHORT_NAME and len(user.last_name) <= _SHORT_NAME
    return len(body) <= MAX_BYTES and short_name and len(user.email) <= _SHORT_EMAIL


def _restored(index: int, encoded: bytes, check: Checker) -> Row:
    """Decodes a row that keeps all fields."""
    try:
        user = User.FromString(encoded)
    except DecodeError:
        return _undecodable(index, check)
    user.DiscardUnknownFields()
    check.key("user_id", user.user_id)
    check.profile(user.email, user.first_name, user.last_name)
    check.metadata(user.metadata)
    if not 1 <= user.id <= MAX_ID:
        check.refuse("id", f"must be from 1 to {MAX_ID}, because restore is set")
    check.uuid("uuid", user.uuid)
    for field in ("created_at", "updated_at"):
        _check_time(user, field, check)
    if not 1 <= len(user.etag.encode()) <= _MAX_ETAG_BYTES:
        check.refuse("etag", f"must have 1 to {_MAX_ETAG_BYTES} bytes, because restore is set")
    return Row(index, user.user_id, frame(user), id=user.id)


def _check_time(user: User, field: str, check: Checker) -> None:
    time: Timestamp = getattr(user, field)
    try:
        time.ToJsonString()  # raises ValueError if the time is out of range
    except ValueError:
        check.refuse(field, "must be a time from the year 1 to 9999")
    else:
        if field not in {present.name for present, _ in user.ListFields()}:
            check.refuse(field, "is required, because restore is set")


def _undecodable(index: int, check: Checker) -> Row:
    check.violations.append(Violation("user", "cannot be decoded as a User: bad UTF-8, or nested too deep"))
    return Row(index, "")


def _with_new_fields(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with the fields that the server sets for new users, except the id."""
    now = present_time()
    times = User(created_at=now, updated_at=now).SerializeToString()
    etags = urlsafe_b64encode(token_bytes(_ETAG_BYTES * len(rows)))
    uuid7 = uuid_utils.uuid7
    finished: list[Row] = []
    for row, start in zip(rows, range(0, len(etags), _ETAG_LENGTH), strict=True):
        etag = etags[start : start + _ETAG_LENGTH]
        content = b"".join((_UUID_TAG, str(uuid7()).encode(), row.content, times, _ETAG_TAG, etag))
        finished.append(row if row.error else row._replace(content=content))
    return finished
