"""Snapshots of all users, and of their sessions, for watches."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from userservice.v1.session_pb2 import Session
from userservice.v1.user_watch_pb2 import ChangeKind
from userservice.v1.view_pb2 import View
from userservice_server.domain.ports import RecordStore, StoreIdentity, Table
from userservice_server.domain.users import Users
from userservice_server.wire.changes import session_change, user_change
from userservice_server.wire.projection import cut_of
from userservice_server.wire.records import record_id, record_key, split_records

_CHUNK_SIZE = 1000
_SESSIONS = 100  # in one read
_MESSAGE_BYTES = 256 << 10
_USER_EXISTS, _SESSION_EXISTS = ChangeKind.CHANGE_KIND_USER_EXISTS, ChangeKind.CHANGE_KIND_SESSION_EXISTS


class SnapshotPage(NamedTuple):
    """A part of a snapshot.

    Attributes:
        changes: the encoded records, as changes.
        cursor: the id of the last user in the snapshot so far; None at the end.
        session_cursor: the last session of that user that was sent, if more follow; None if the next user follows.
        users: the number of users in this part.
    """

    changes: Sequence[bytes]
    cursor: int | None
    session_cursor: int | None
    users: int


class Snapshots:
    """Reads snapshots.

    Args:
        store: the store.
        users: lists the users.
    """

    def __init__(self, store: RecordStore, users: Users) -> None:
        self._store = store
        self._users = users

    async def read(
        self,
        cursor: int,
        session_cursor: int | None,
        view: "View.ValueType",
        *,
        with_users: bool,
        with_sessions: bool,
    ) -> AsyncGenerator[SnapshotPage]:
        """Yields every user that exists throughout exactly once, in the order of their ids, with its sessions.

        Args:
            cursor: the snapshot starts after this id.
            session_cursor: the sessions of that user after this one come first; None: its sessions were sent.
            view: the fields of the records.
            with_users: whether users are included.
            with_sessions: whether sessions are included.
        """
        identity = self._store.identity
        if session_cursor is not None and with_sessions:
            rest = self._rest(cursor, session_cursor, view, identity)
            async with aclosing(rest) as pages:
                async for page in pages:
                    yield page
        async with aclosing(self._users.stream(_CHUNK_SIZE, cursor, view)) as ranges:
            async for responses in ranges:
                # All responses of a range must be taken before the next range is requested.
                for encoded, next_cursor, _ in list(responses):
                    records = split_records(encoded)
                    users = [user_change(_USER_EXISTS, 0, record) for record in records] if with_users else []
                    if not with_sessions:
                        at = record_id(records[-1]) if next_cursor else None
                        yield SnapshotPage(users, at, None, len(users))
                        continue
                    async with aclosing(self._with_sessions(records, users, view, identity)) as pages:
                        async for page in pages:
                            yield page
                    if not next_cursor:
                        yield SnapshotPage([], None, None, 0)

    async def _with_sessions(
        self, records: Sequence[bytes], users: Sequence[bytes], view: "View.ValueType", identity: StoreIdentity
    ) -> AsyncGenerator[SnapshotPage]:
        """Yields users, each followed by its sessions; nothing if there are no users."""
        if not records:
            return
        tables = [self._store.tables.sessions(record_key(record).decode()) for record in records]
        counts = await asyncio.gather(*map(self._store.size, tables))
        part = _Part(0)
        for number, record in enumerate(records):
            part.cursor, part.session_cursor = record_id(record), None
            if users:
                part.add(users[number])
                part.users += 1
            if counts[number]:
                async with aclosing(self._sessions(tables[number], 0, view, identity)) as found:
                    async for session_id, change in found:
                        if part.size >= _MESSAGE_BYTES:
                            yield part.take()
                        part.add(change)
                        part.session_cursor = session_id
            part.session_cursor = None
            if part.size >= _MESSAGE_BYTES:
                yield part.take()
        yield part.take()

    async def _rest(
        self, user: int, session_cursor: int, view: "View.ValueType", identity: StoreIdentity
    ) -> AsyncGenerator[SnapshotPage]:
        """Yields the sessions of a user after one of them, if the user still exists."""
        reads = [self._store.range(table, user - 1, 1, identity) for table in self._store.tables.all_users()]
        found = [record for records in await asyncio.gather(*reads) for record in records if record_id(record) == user]
        if not found:
            return
        part = _Part(user, session_cursor)
        table = self._store.tables.sessions(record_key(found[0]).decode())
        async with aclosing(self._sessions(table, session_cursor, view, identity)) as sessions:
            async for session_id, change in sessions:
                if part.size >= _MESSAGE_BYTES:
                    yield part.take()
                part.add(change)
                part.session_cursor = session_id
        part.session_cursor = None
        if part.changes:
            yield part.take()

    async def _sessions(
        self, table: Table, after: int, view: "View.ValueType", identity: StoreIdentity
    ) -> AsyncGenerator[tuple[int, bytes]]:
        """Yields the ids of the sessions of a user, and the sessions as changes."""
        cut, (ended, _) = cut_of(Session, view), await self._store.ended(table)
        while records := await self._store.range(table, after, _SESSIONS, identity):
            after = record_id(records[-1])
            present = [record for record in records if record_id(record) not in ended]
            for record in present if cut is None else cut(present):
                yield record_id(record), session_change(_SESSION_EXISTS, 0, record)


class _Part:
    """The part of a snapshot that is being made; see ``SnapshotPage``."""

    def __init__(self, cursor: int, session_cursor: int | None = None) -> None:
        self.changes: list[bytes] = []
        self.size = self.users = 0
        self.cursor = cursor
        self.session_cursor = session_cursor

    def add(self, change: bytes) -> None:
        """Adds a change."""
        self.changes.append(change)
        self.size += len(change)

    def take(self) -> SnapshotPage:
        """Returns the part, and starts the next one."""
        page = SnapshotPage(self.changes, self.cursor, self.session_cursor, self.users)
        self.changes, self.size, self.users = [], 0, 0
        return page
