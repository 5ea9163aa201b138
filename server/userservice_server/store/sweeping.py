"""Removes expired sessions, in bounded steps.

An expired session is absent from every read, because the scripts compare its time of expiry with the store's clock. The
sweeper only frees memory. The expiry queue of a partition contains the ids of users, so a step first reads the records
of the users who are due, and then runs a script with the keys of their sessions. Several servers may sweep at once.
"""

import asyncio
from collections.abc import Sequence

from userservice_server.errors import StoreUnavailableError
from userservice_server.store import scripts
from userservice_server.store.connection import Send
from userservice_server.store.keys import Keys, Table
from userservice_server.store.running import run
from userservice_server.wire.records import record_key

_USERS_PER_STEP = 100
_SESSIONS_PER_STEP = 200  # removing them takes about a millisecond, in which the store does nothing else


async def sweep_all(keys: Keys, store_id: bytes, reads: Sequence[Send], writes: Sequence[Send]) -> int:
    """Removes some of the expired sessions, in all partitions that are available.

    Args:
        keys: the names of the keys.
        store_id: the store that the server expects.
        reads: sends a command that reads, by partition.
        writes: the same for writes.

    Returns:
        The number of users whose sessions were examined; 0 if no session has expired. It also counts users whose
        sessions were touched, and have not expired: the step moves them to a later place in the queue.

    Raises:
        StoreUnavailableError: no user was examined, because a partition is unavailable.
    """
    tables = keys.all_users()
    queued = await asyncio.gather(
        *(reads[table.partition]("EXISTS", table.expiry_queue) for table in tables), return_exceptions=True
    )
    examined, failure = 0, None
    for table, found in zip(tables, queued, strict=True):
        try:
            if isinstance(found, BaseException):
                raise found
            if found:
                # In turn, so that other commands run between the steps if the partitions are on one server.
                examined += await _sweep(keys, table, store_id, reads[table.partition], writes[table.partition])
        except StoreUnavailableError as error:  # the other partitions must not wait for this one
            failure = error
    if failure is not None and not examined:
        raise failure
    return examined


async def _sweep(keys: Keys, users: Table, store_id: bytes, read: Send, write: Send) -> int:
    """Removes some of the expired sessions of a partition; returns the number of users that were examined."""
    redis_keys: list[bytes] = [users.expiry_queue, users.rows]
    due: Sequence[bytes | None] = await run(read, scripts.DUE, redis_keys, (_USERS_PER_STEP,))
    if not due:
        return 0
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
    return 0 if removed < 0 else len(due) // 2
