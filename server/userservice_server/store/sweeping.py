"""Removes expired sessions, in bounded steps.

An expired session is absent from every read, because the scripts compare its time of expiry with the store's clock. The
sweeper frees the memory, and reports the end of the session in the feed. The expiry queue of a partition contains the
ids of users, so a step first reads the records of the users who are due, and then runs a script with the keys of their
sessions. Several servers may sweep at once.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from userservice_server.errors import StoreUnavailableError
from userservice_server.store import scripts
from userservice_server.store.connection import Send
from userservice_server.store.keys import Keys, Table
from userservice_server.store.running import run
from userservice_server.wire.expiry import MICROSECONDS_A_SECOND
from userservice_server.wire.records import record_key

_USERS_PER_STEP = 100
_SESSIONS_PER_STEP = 200  # removing them takes about a millisecond, in which the store does nothing else


class Step(NamedTuple):
    """The result of a step.

    Attributes:
        users: number of users who were due; 0: nothing is to be done now. Users whose sessions were touched are due
            too: the step moves them to a later place in the queue.
        overdue: for how many seconds the first of them was due.
    """

    users: int = 0
    overdue: float = 0.0


async def partitions_with_queue(keys: Keys, reads: Sequence[Send]) -> list[int]:
    """Returns the numbers of the partitions that have an expiry queue; leaves out partitions that are unavailable."""
    tables = keys.all_users()
    queued = await asyncio.gather(
        *(reads[table.partition]("EXISTS", table.expiry_queue) for table in tables), return_exceptions=True
    )
    for found in queued:
        if isinstance(found, BaseException) and not isinstance(found, StoreUnavailableError):
            raise found
    return [table.partition for table, found in zip(tables, queued, strict=True) if found == 1]


async def sweep(keys: Keys, users: Table, store_id: bytes, read: Send, write: Send) -> Step:
    """Removes some of the expired sessions of a partition.

    Args:
        keys: the names of the keys.
        users: the users of the partition.
        store_id: the store that the server expects.
        read: sends a command that reads.
        write: sends a command that writes.
    """
    redis_keys: list[bytes] = [users.expiry_queue, users.rows]
    found: Sequence[bytes | None] = await run(read, scripts.DUE, redis_keys, (_USERS_PER_STEP,))
    if not found:
        return Step()
    overdue, *due = found
    redis_keys = [users.store_id, users.layout, users.rows, users.index, users.session_count, users.expiry_queue]
    arguments: list[bytes | str | int] = [store_id, _SESSIONS_PER_STEP]
    for user, record in zip(due[::2], due[1::2], strict=True):
        user_id = record_key(record).decode() if record else ""
        if user_id:
            sessions = keys.sessions(user_id)
            redis_keys += [sessions.rows, sessions.index, sessions.session_expiry]
        else:  # the script removes the missing user from the queue; these keys of the same slot do not exist
            redis_keys += [users.request_prefix] * 3
        arguments += [user_id, user or b""]
    redis_keys.append(users.feed)
    removed: int = await run(write, scripts.SWEEP, redis_keys, arguments)
    return Step() if removed < 0 else Step(len(due) // 2, int(overdue or 0) / MICROSECONDS_A_SECOND)
