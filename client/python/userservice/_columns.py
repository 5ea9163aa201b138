"""Columns of many users, for programs that write tables."""
# ruff: noqa: SLF001 - a part of the client

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Literal

from userservice._json_text import UNEXPECTED, object_text, user_text
from userservice.models import User

_MICROSECONDS, _NANOS = 1_000_000, 1000


def json_texts(users: Sequence[User]) -> list[str]:
    """Returns `User.to_json` of each user. The program must not have changed the metadata of the users."""
    try:
        return [user_text(user._message) for user in users]
    except UNEXPECTED:  # to_json supports all input, or raises an error with the reason
        return [user.to_json() for user in users]


def metadata_texts(users: Iterable[User]) -> list[str]:
    """Returns the metadata of each user as a JSON object."""
    return [_metadata_text(user) for user in users]


def _metadata_text(user: User) -> str:
    if not hasattr(user, "_metadata"):
        encoded: bytes = user._message.metadata  # type: ignore[assignment]
        try:
            return object_text(encoded, 0, len(encoded))
        except UNEXPECTED:  # the slower way below supports all input, or raises an error with the reason
            pass
    return json.dumps(user.metadata, ensure_ascii=False, allow_nan=False)


def times(users: Iterable[User], field: Literal["created_at", "updated_at"]) -> list[int]:
    """Returns a time of each user in microseconds since 1970."""
    found = [getattr(user._message, field) for user in users]
    return [time.seconds * _MICROSECONDS + time.nanos // _NANOS for time in found]
