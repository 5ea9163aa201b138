"""Checks responses before the caller gets them.

If a service is faulty or a proxy mixes up responses, the program must not use another user's record or read forever.
All checks raise InternalError, which is not retried. The error messages contain no field of another record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from userservice.errors import InternalError
from userservice.models import Record, UserScanPart
from userservice.v1.session_pb2 import Session as SessionMessage
from userservice.v1.user_pb2 import User as UserMessage


def check_user(user: UserMessage, user_id: str) -> None:
    """Rejects a user that is not the requested user."""
    if user.user_id != user_id:
        raise InternalError("the service returned another user than the one in the request")


def check_session(session: SessionMessage, user_id: str, session_id: str) -> None:
    """Rejects a session that is not the requested session."""
    if (session.user_id, session.session_id) != (user_id, session_id):
        raise InternalError("the service returned another session than the one in the request")


def check_owner(sessions: Iterable[SessionMessage], user_id: str) -> None:
    """Rejects sessions that do not belong to the requested user."""
    if any(session.user_id != user_id for session in sessions):
        raise InternalError("the service returned a session of another user than the one in the request")


def check_batch(users: Iterable[UserMessage], missing: Sequence[str], requested: Sequence[str]) -> None:
    """Rejects a batch that does not contain each requested user_id, in order, as a user or as missing."""
    absent = set(missing)
    if not absent.issubset(requested):
        raise InternalError("the service reported a user_id as missing that is not in the request")
    if [user.user_id for user in users] != [user_id for user_id in requested if user_id not in absent]:
        raise InternalError("the service returned other users than the ones in the request, or in another order")


def check_cursor(records: Sequence[Record[Any]], cursor: int, next_cursor: int, total_size: int) -> None:
    """Rejects a page or chunk whose next cursor is too small: a reader would repeat the same pages forever.

    `Record.wrap_page` checks the order of the ids.

    Args:
        records: The records of the page.
        cursor: The cursor of the request.
        next_cursor: The cursor of the next page; 0 at the end.
        total_size: Number of all records of the list.
    """
    earliest = records[-1].id if records else cursor + 1
    if next_cursor and next_cursor < earliest:
        raise InternalError(f"the service returned next_cursor {next_cursor}, which must be at least {earliest}")
    _check_total_size(total_size)


def check_descending(records: Sequence[Record[Any]], cursor: int, next_cursor: int, total_size: int) -> None:
    """Checks a page in descending order, as `check_cursor` and `Record.wrap_page` check pages in ascending order."""
    last = cursor
    for record in records:
        if not 0 < record.id < (last or record.id + 1):
            raise InternalError(f"the service returned ids that do not decrease from the cursor {cursor}")
        last = record.id
    latest = last - (not records) if last else next_cursor
    if not 0 <= next_cursor <= latest:
        raise InternalError(f"the service returned next_cursor {next_cursor}, which must be at most {latest}")
    _check_total_size(total_size)


def check_count(count: int) -> int:
    """Rejects a negative number of records."""
    if count < 0:
        raise InternalError(f"the service returned the negative count {count}")
    return count


def check_end(users: Sequence[Record[Any]], end_cursor: int) -> None:
    """Rejects a chunk of a part that contains a user beyond the end of the part: another part contains it too."""
    if users and users[-1].id > end_cursor:
        raise InternalError(f"the service returned id {users[-1].id} for a part that ends at {end_cursor}")


def check_parts(parts: Sequence[UserScanPart]) -> None:
    """Rejects a plan that cannot be read, or whose parts overlap: a reader could receive a user twice."""
    if not all(part.partition > 0 and 0 <= part.cursor < part.end_cursor for part in parts):
        raise InternalError("the service returned a part that is empty or has no partition")
    for part, after in pairwise(sorted(parts)):
        if after.partition == part.partition and after.cursor < part.end_cursor:
            raise InternalError("the service returned parts that overlap")


def _check_total_size(total_size: int) -> None:
    if total_size < 0:
        raise InternalError(f"the service returned the negative total_size {total_size}")
