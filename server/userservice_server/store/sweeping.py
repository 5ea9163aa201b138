"""Removes sessions that have ended, in bounded steps.

From its end on, a session is absent from every read, because the scripts compare its end with the store's clock. The
sweeper only frees memory. The expiry queue of a partition contains the ids of users, so a step first reads the records
of the users who are due, and then runs a script with the keys of their sessions. Several servers may sweep together.
"""

from collections.abc import Sequence

from userservice_server.store import scripts
from userservice_server.store.identity import Run
from userservice_server.store.keys import Keys, Table
from userservice_server.wire.records import record_key

_USERS_PER_STEP = 20
_SESSIONS_PER_STEP = 200  # removing them takes about a millisecond, in which the store does nothing else


async def sweep(run: Run, keys: Keys, users: Table, store_id: bytes) -> int:
    """Removes some of the sessions of a partition that have ended.

    Args:
        run: runs a script on the server of the partition.
        keys: the names of the keys.
        users: the table of users of the partition.
        store_id: the store that the server expects.

    Returns:
        The number of removed sessions.
    """
    due: Sequence[bytes | None] = await run(scripts.DUE, (users.expiry_queue, users.rows), (_USERS_PER_STEP,))
    if not due:
        return 0
    redis_keys = [users.store_id, users.layout, users.rows, users.index, users.session_count, users.expiry_queue]
    arguments: list[bytes | str | int] = [store_id, _SESSIONS_PER_STEP]
    for user, record in zip(due[::2], due[1::2], strict=True):
        user_id = record_key(record).decode() if record else ""  # a user who does not exist leaves the queue
        sessions = keys.sessions(user_id)
        redis_keys += [sessions.rows, sessions.index, sessions.session_expiry]
        arguments += [user_id, user or b""]
    removed: int = await run(scripts.SWEEP, redis_keys, arguments)
    return max(removed, 0)
