"""Encodes the rows of an import, and decodes its responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from userservice._status import error_from_status
from userservice.errors import FieldViolation, InvalidArgumentError, UserServiceError
from userservice.imports import ImportStatus, RowError
from userservice.models import User
from userservice.requests import build_request
from userservice.v1.user_import_pb2 import (
    GetImportResponse,
    ImportBatch,
    ImportOptions,
    ImportUsersRequest,
    ImportUsersResponse,
    OnDuplicate,
)
from userservice.v1.user_pb2 import User as UserMessage

MOST_BATCH_ROWS = 500
_OVERHEAD_BYTES = 64  # of a batch around its rows
MOST_BATCH_BYTES = (1 << 20) - _OVERHEAD_BYTES

_BATCH_TAG = bytes([ImportUsersRequest.DESCRIPTOR.fields_by_name["batch"].number << 3 | 2])
_USERS_TAG = bytes([ImportBatch.DESCRIPTOR.fields_by_name["users"].number << 3 | 2])
_SET_BY_THE_SERVICE = frozenset({"id", "uuid", "created_at", "updated_at", "etag"})
_EMPTY_ROW = _USERS_TAG + b"\0"  # a row without user_id, which the service rejects
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_CHOICES = ("FAIL", "SKIP", "MERGE", "REPLACE")


def build_options(
    import_id: str, on_duplicate: str, digest: str, *, validate_only: bool, restore: bool
) -> ImportOptions:
    """Makes the first message of an import.

    Raises:
        InvalidArgumentError: If an option has a wrong type, or on_duplicate is unknown.
    """
    options = build_request(ImportOptions, {"import_id": import_id, "digest": digest})
    if on_duplicate not in _CHOICES:
        raise _invalid("on_duplicate", f"must be one of {', '.join(_CHOICES)}")
    options.on_duplicate = OnDuplicate.Value(f"ON_DUPLICATE_{on_duplicate}")
    options.validate_only = bool(validate_only)
    options.restore = bool(restore)
    return options


def encoded_row(row: object, *, restore: bool) -> tuple[bytes, InvalidArgumentError | None]:
    """Encodes a row as an element of a batch.

    Returns:
        The row, and None; or, if the row is invalid, a row that the service rejects, and the error.

    Raises:
        TypeError: If the row is not a mapping, a User or an InvalidArgumentError.
    """
    try:
        encoded = _encoded_user(row, restore=restore)
    except InvalidArgumentError as error:
        return _EMPTY_ROW, error
    framed = _USERS_TAG + _varint(len(encoded)) + encoded
    if len(framed) > MOST_BATCH_BYTES:
        return _EMPTY_ROW, _invalid("user", f"must be at most {MOST_BATCH_BYTES} bytes encoded, is {len(framed)}")
    return framed, None


def _invalid(field: str, description: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field}: {description}", violations=[FieldViolation(field, description)])


def _encoded_user(row: object, *, restore: bool) -> bytes:
    if isinstance(row, InvalidArgumentError):
        raise row
    if isinstance(row, User):
        return bytes(row)
    if not isinstance(row, (dict, Mapping)):  # dict first, because the check of the abstract class is slow
        raise TypeError(f"a row must be a mapping of fields or a User, not {type(row).__name__}")
    if restore:
        return bytes(_user(row))
    fields = {name: value for name, value in row.items() if name not in _SET_BY_THE_SERVICE}
    return build_request(UserMessage, fields).SerializeToString()


def _user(fields: Mapping[str, Any]) -> User:
    try:
        return User(**fields)
    except (TypeError, ValueError) as error:
        raise _invalid("user", str(error)) from error


def encoded_batch(offset: int, rows: Sequence[bytes]) -> bytes:
    """Encodes a request with rows that `encoded_row` has encoded."""
    content = ImportBatch(offset=offset).SerializeToString() + b"".join(rows)
    return _BATCH_TAG + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - the high bit is set if more bytes follow
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def status_of(import_id: str, response: ImportUsersResponse | GetImportResponse) -> ImportStatus:
    """Returns the state in a response, without row errors."""
    counts = (response.added, response.merged, response.replaced, response.skipped, response.failed)
    return ImportStatus(import_id, response.acked_offset, *counts, [])


def row_errors_of(response: ImportUsersResponse | GetImportResponse) -> list[RowError]:
    """Returns the row errors in a response."""
    return [RowError(error.index, _error(error.status)) for error in response.row_errors]


def _error(status: Any) -> UserServiceError:
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return error_from_status(code, status.message, status.SerializeToString())
