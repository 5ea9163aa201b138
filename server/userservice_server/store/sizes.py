"""The numbers of users and sessions in the store.

The number of users is the number of rows in their tables. Each user has a separate table of sessions, so the scripts
keep the number of sessions in a key of each partition (scripts/_sessions.lua). A store of an earlier release has no
such key: a server with metrics counts the sessions once, in steps of 100 users, while all servers continue to write.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from userservice_server.store import scripts
from userservice_server.store.connection import Send
from userservice_server.store.identity import Run
from userservice_server.store.keys import Keys, Table
from userservice_server.wire.ids import MAX_ID
from userservice_server.wire.records import record_id, record_key

_USERS_PER_STEP = 100
_COVERED, _ADDED, _REMOVED = "covered", "added", "removed"
_NOTHING = b"0"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of records.

    Attributes:
        users: number of users.
        sessions: number of sessions; None: not all sessions are counted yet.
    """

    users: int
    sessions: int | None


async def read_sizes(sends: Sequence[Send], tables: Sequence[Table]) -> Sizes:
    """Reads the sizes of the store with these tables of users; ``sends`` sends a command to a partition."""
    reading = [
        (
            sends[table.partition]("ZCARD", table.rows),
            sends[table.partition]("HMGET", table.session_count, _COVERED, _ADDED, _REMOVED),
        )
        for table in tables
    ]
    users, sessions, is_complete = 0, 0, True
    for rows, count in reading:
        users += await rows
        covered, added, removed = await count
        is_complete = is_complete and covered is not None and int(covered) == MAX_ID
        sessions += int(added or 0) - int(removed or 0)
    return Sizes(users, sessions if is_complete else None)


async def count_sessions(send: Send, run: Run, keys: Keys, store_id: bytes) -> bool:
    """Counts the sessions of the next users that are not counted yet.

    Args:
        send: sends a command.
        run: runs a script.
        keys: the names of the keys.
        store_id: the store that the server expects.

    Returns:
        Whether sessions remain to be counted.
    """
    for table in keys.all_users():
        covered = await send("HGET", table.session_count, _COVERED) or _NOTHING
        if int(covered) == MAX_ID:
            continue
        records = await send("ZRANGE", table.rows, b"(" + covered, "+inf", "BYSCORE", "LIMIT", 0, _USERS_PER_STEP)
        users = [(record_key(record), record_id(record)) for record in records]
        sessions = [keys.sessions(user_id.decode()).rows for user_id, _ in users]
        redis_keys = (table.store_id, table.layout, table.rows, table.index, table.session_count, *sessions)
        arguments = (store_id, covered, *(part for user in users for part in user))
        await run(scripts.COUNT, redis_keys, arguments)
        return True
    return False
