"""Checks of what the service returned, before a caller sees it.

A broken service, or a proxy that mixes up answers, must not get a program to act on another user's record or to read
for ever. All checks raise InternalError, which is not retried. Their messages contain no field of a foreign record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from userservice.errors import InternalError
from userservice.models import Record
from userservice.v1.session_pb2 import Session as SessionMessage
from userservice.v1.user_pb2 import User as UserMessage


def check_user(user: UserMessage, user_id: str) -> None:
    """Rejects the record of a user that was not asked for."""
    if user.user_id != user_id:
        raise InternalError("the service returned another user than the one in the request")


def check_session(session: SessionMessage, user_id: str, session_id: str) -> None:
    """Rejects the record of a session that was not asked for."""
    if (session.user_id, session.session_id) != (user_id, session_id):
        raise InternalError("the service returned another session than the one in the request")


def check_owner(sessions: Iterable[SessionMessage], user_id: str) -> None:
    """Rejects sessions of a user that was not asked for."""
    if any(session.user_id != user_id for session in sessions):
        raise InternalError("the service returned a session of another user than the one in the request")


def check_batch(users: Iterable[UserMessage], missing: Sequence[str], requested: Sequence[str]) -> None:
    """Rejects a batch that does not answer each requested user_id, in order, with a user or as missing."""
    absent = set(missing)
    if not absent.issubset(requested):
        raise InternalError("the service reported a user_id as missing that is not in the request")
    if [user.user_id for user in users] != [user_id for user_id in requested if user_id not in absent]:
        raise InternalError("the service returned other users than the ones in the request, or in another order")


def check_cursor(records: Sequence[Record[Any]], cursor: int, next_cursor: int, total_size: int) -> None:
    """Rejects a page or chunk that would send its reader in circles. The order of its ids is checked where it is made.

    Args:
        records: The records of the page.
        cursor: Where the page had to start.
        next_cursor: Where the next page starts; 0 at the end.
        total_size: How many records there are in all.
    """
    earliest = records[-1].id if records else cursor + 1
    if next_cursor and next_cursor < earliest:
        raise InternalError(f"the service returned next_cursor {next_cursor}, which must be at least {earliest}")
    if total_size < 0:
        raise InternalError(f"the service returned the negative total_size {total_size}")
