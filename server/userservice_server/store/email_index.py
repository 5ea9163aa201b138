"""Builds the e-mail index of a store; the scripts that write users maintain it (see scripts/_emails.lua)."""

import asyncio
from collections.abc import Callable
from hashlib import sha1
from typing import Any

from userservice_server.errors import IndexNotReadyError, StoreChangedError
from userservice_server.store import scripts
from userservice_server.store.keys import COMPLETE, FILLING, MAINTAINED_LAYOUT_VERSION, NOTICE_SECONDS, Table
from userservice_server.store.redis_store import RedisStore, optional_number, parsed_version
from userservice_server.wire.emails import UNICODE_VERSION, key_of_record
from userservice_server.wire.outcomes import Code

_STEP_USERS = 100  # at most 6.5 MiB
_VERSION = UNICODE_VERSION.encode()

Progress = Callable[[int], None]
"""Called after each step with the number of users that this process has indexed."""


class EmailIndex:
    """The e-mail index of a store.

    Args:
        store: runs the scripts.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    async def build(self, progress: Progress, *, again: bool = False, pause: float = NOTICE_SECONDS) -> bool:
        """Builds the index, or continues to build it; returns False if it was complete.

        As soon as the index is started, the scripts maintain it; then all users that exist are added. The service can
        run meanwhile, and several processes can build the index together.

        Args:
            progress: see ``Progress``.
            again: whether to build an index again that is complete.
            pause: seconds to wait until servers of an earlier version have detected the new version of the layout.

        Raises:
            StoreChangedError: the store was emptied, replaced or damaged.
            IndexNotReadyError: the index was built, or is being built, for a later version of Unicode.
        """
        state, version = await self._store.layout_fields("email_index", "email_unicode")
        _check_version(version)
        if state is None:
            await self._announce(pause)
        started = [await self._start(table, again=again) for table in self._store.tables.all_users()]
        # Set the version again, because the feed may have been turned off meanwhile.
        await self._store.raise_version()
        if not any(started) and state == COMPLETE:
            return False
        await self._note_state(FILLING)
        done = 0
        for table, is_started in zip(self._store.tables.all_users(), started, strict=True):
            if is_started:
                done = await self._fill(table, done, progress, pause)
        await self._note_state(COMPLETE)
        return True

    async def _announce(self, pause: float) -> None:
        """Makes servers of an earlier version stop writing, before the first partition has an index."""
        await self._store.raise_version()
        await asyncio.sleep(pause)
        await self._note_state(FILLING)  # from now on, turning the feed off does not lower the version

    async def _note_state(self, state: bytes) -> None:
        """Writes the state into the layout of a store with several partitions; one partition has no other layout."""
        if len(self._store.tables.all_users()) > 1:
            await self._store.set_layout(
                {"version": MAINTAINED_LAYOUT_VERSION, "email_index": state, "email_unicode": UNICODE_VERSION}
            )

    async def _start(self, table: Table, *, again: bool) -> bool:
        """Starts the index of a partition, or continues; returns False if it is complete."""
        arguments = (UNICODE_VERSION, int(again))
        reply = await self._store.run_write(scripts.INDEX_START, table, table.email_index, arguments)
        return bool(_checked(reply) == FILLING)

    async def _fill(self, table: Table, done: int, progress: Progress, pause: float) -> int:
        """Adds the users of a partition that are not indexed; returns ``done`` plus the number of users."""
        after, users = b"0", list[bytes | str | int]()
        stop = after
        while True:
            # The first step adds no users: it only returns the present progress.
            reply = await self._store.run_write(
                scripts.INDEX_FILL,
                table,
                (table.rows, *table.email_index, table.feed),
                (UNICODE_VERSION, after, stop, *users),
            )
            state, version, reached = _checked(reply)
            _check_version(version)
            if version != _VERSION:
                # A failover lost the start, or a process with an older version of Unicode started the index again.
                if not state:
                    await self._announce(pause)
                await self._start(table, again=False)
                after, stop, users = b"0", b"0", []
                continue
            if state != FILLING:
                return done
            if reached == stop:
                done += len(users) // 3
                progress(done)
            after = reached
            rows = await self._store.read_rows(table, after, _STEP_USERS)
            users = [
                argument
                for record, number in zip(rows[::2], rows[1::2], strict=True)
                for argument in (
                    number,
                    optional_number(key_of_record(record)),
                    sha1(record, usedforsecurity=False).hexdigest(),
                )
            ]
            stop = rows[-1] if rows else b""


def _checked(reply: Any) -> Any:
    if reply == Code.STORE_CHANGED.value:
        raise StoreChangedError("the store was emptied, replaced or damaged; the index was not built")
    return reply


def _check_version(version: bytes | None) -> None:
    if version and parsed_version(version) > parsed_version(_VERSION):
        raise IndexNotReadyError(
            "the e-mail index was built for a later version of Unicode; use the same version of Python as the servers"
        )
