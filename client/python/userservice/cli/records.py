"""The formats of exported files: JSON lines, CSV and Parquet.

A record is a user and, with --sessions, the list of its sessions.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from userservice import Session, User

FORMATS = ("jsonl", "csv", "parquet")
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}

USER_FIELDS = (
    "user_id",
    "id",
    "uuid",
    "email",
    "first_name",
    "last_name",
    "metadata",
    "created_at",
    "updated_at",
    "etag",
)


class Record(NamedTuple):
    """A user with its sessions; None: the file contains no sessions."""

    user: User
    sessions: Sequence[Session] | None


Encode = Callable[[Sequence[Record]], bytes]
"""Returns the bytes of some records for the end of a file."""


def encode_json_lines(records: Sequence[Record]) -> bytes:
    """Returns one JSON object per line: the fields of the user and, with sessions, the list `sessions`."""
    if records and records[0].sessions is not None:
        return "".join([f"{record.user.to_json()[:-1]}, {_sessions(record)}}}\n" for record in records]).encode()
    return "".join([f"{record.user.to_json()}\n" for record in records]).encode()


def _sessions(record: Record) -> str:
    return f'"sessions": {sessions_text(record)}'


def sessions_text(record: Record) -> str:
    """Returns the sessions of a record as a JSON list."""
    return f"[{', '.join(session.to_json() for session in record.sessions or ())}]"


def encode_csv(records: Sequence[Record]) -> bytes:
    """Returns rows of comma-separated values (RFC 4180); metadata and sessions are JSON."""
    from userservice._columns import metadata_texts  # noqa: PLC0415 - imports grpc

    lines = io.StringIO()
    writer = csv.writer(lines)
    metadata = metadata_texts(record.user for record in records)
    for record, text in zip(records, metadata, strict=True):
        row = [_csv_value(record.user, field, text) for field in USER_FIELDS]
        writer.writerow(row if record.sessions is None else [*row, sessions_text(record)])
    return lines.getvalue().encode()


def _csv_value(user: User, field: str, metadata: str) -> str:
    if field == "metadata":
        return metadata
    value = getattr(user, field)
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return str(value)


def csv_header(*, with_sessions: bool) -> bytes:
    """Returns the first line of a CSV file."""
    return f"{','.join(columns(with_sessions=with_sessions))}\r\n".encode()


def columns(*, with_sessions: bool) -> tuple[str, ...]:
    """Returns the names of the columns of a CSV or Parquet file."""
    return (*USER_FIELDS, "sessions") if with_sessions else USER_FIELDS
