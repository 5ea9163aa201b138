"""The formats of exported files: JSON lines, CSV and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

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


Sessions = Sequence[Sequence["Session"]] | None
"""The sessions of each user of a list; None: the file contains no sessions."""

Encode = Callable[[Sequence["User"], Sessions], bytes]
"""Returns users and their sessions as bytes to append to a file."""


def encode_json_lines(users: Sequence[User], sessions: Sessions) -> bytes:
    """Returns one JSON object per line: the fields of the user and, with sessions, the list `sessions`."""
    from userservice._columns import json_texts  # noqa: PLC0415 - imports grpc

    texts = json_texts(users)
    if sessions is not None:
        pairs = zip(texts, sessions, strict=True)
        texts = [f'{text[:-1]}, "sessions": {sessions_text(of_user)}}}' for text, of_user in pairs]
    return "".join([f"{text}\n" for text in texts]).encode()


def sessions_text(sessions: Sequence[Session]) -> str:
    """Returns the sessions of a user as a JSON list."""
    return f"[{', '.join(session.to_json() for session in sessions)}]"


def encode_csv(users: Sequence[User], sessions: Sessions) -> bytes:
    """Returns rows of comma-separated values (RFC 4180); metadata and sessions are JSON."""
    from userservice._columns import metadata_texts  # noqa: PLC0415 - imports grpc

    lines = io.StringIO()
    writer = csv.writer(lines)
    for place, (user, metadata) in enumerate(zip(users, metadata_texts(users), strict=True)):
        row = [_csv_value(user, field, metadata) for field in USER_FIELDS]
        writer.writerow(row if sessions is None else [*row, sessions_text(sessions[place])])
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
