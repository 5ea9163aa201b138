"""Reads the feed of changes in Redis, and turns it on and off; domain/change_ports.py describes the interface."""

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from userservice_server.domain.change_ports import Entries, FeedHandle, SessionPlace
from userservice_server.domain.ports import MOST_STORES
from userservice_server.errors import StoreChangedError, WatchDisabledError, WatchTokenExpiredError
from userservice_server.store import scripts
from userservice_server.store.keys import NOTICE_SECONDS, Table
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.wakeups import WakeUps
from userservice_server.wire.changes import Entry, Position
from userservice_server.wire.outcomes import Code
from userservice_server.wire.watch_tokens import Reached, feed_digest

DEFAULT_RETENTION = 24 * 3600.0  # seconds
DEFAULT_MAX_ENTRIES = 1_000_000
_EPOCH_BYTES = 8
_READ_BYTES = 256 << 10  # of users in one reply; one more user can exceed it


def new_epoch() -> str:
    """Returns a random epoch for a feed that is turned on, so that resume tokens of earlier epochs are detected."""
    return secrets.token_hex(_EPOCH_BYTES)


class FeedSettings(NamedTuple):
    """The limits of the feed.

    Attributes:
        max_entries: about how many entries the feed keeps, in all partitions.
        retention: about how many seconds the feed keeps an entry.
    """

    max_entries: int = DEFAULT_MAX_ENTRIES
    retention: float = DEFAULT_RETENTION


class RedisFeed:
    """The feed of changes of a store.

    Args:
        store: runs the scripts.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    @property
    def partitions(self) -> int:
        """The number of partitions."""
        return len(self._tables)

    @property
    def _tables(self) -> Sequence[Table]:
        return self._store.tables.all_users()

    def history(self) -> object:
        """See ``FeedStore``."""
        return self._store.connections

    async def ends(self) -> tuple[FeedHandle, list[Position]]:
        """See ``FeedStore``."""
        for _ in range(MOST_STORES):
            identity = self._store.identity
            replies = await asyncio.gather(*(self._end(table, identity.store_id) for table in self._tables))
            if any(reply == Code.WATCH_DISABLED.value for reply in replies):
                raise _disabled()
            if all(isinstance(reply, list) for reply in replies) and len({reply[0] for reply in replies}) == 1:
                epoch = replies[0][0]
                feed = FeedHandle(feed_digest(identity.store_id, epoch), identity.store_id, epoch)
                return feed, [Position.parse(reply[1]) for reply in replies]
            await self._store.look_again(identity)
            await self.trim()  # adds an entry to a feed that was lost
        raise StoreChangedError("the feed of changes is damaged; turn it off and on with userservice feed")

    async def _end(self, table: Table, store_id: bytes) -> Any:
        return await self._store.run_in_bulk(
            scripts.FEED_END, table, (table.store_id, table.layout, table.feed), (store_id,)
        )

    async def read(self, partition: int, feed: FeedHandle, reached: Reached, count: int) -> Entries:
        """See ``FeedStore``."""
        table = self._tables[partition]
        position, seen = reached.position.encode(), reached.seen.encode()
        reply = await self._store.run_in_bulk(
            scripts.FEED_READ,
            table,
            (table.store_id, table.layout, table.rows, table.feed),
            (feed.store_id, feed.epoch, position, seen, count, _READ_BYTES),
        )
        if isinstance(reply, bytes):
            raise _disabled() if reply == Code.WATCH_DISABLED.value else _expired()
        try:
            return _entries(reached.position, *reply)
        except (TypeError, ValueError):
            self._store.distrust()
            raise

    async def read_sessions(
        self, partition: int, places: Sequence[SessionPlace]
    ) -> tuple[list[bytes | None], Position]:
        """See ``FeedStore``."""
        table = self._tables[partition]
        replies = [self._store.record(self._store.tables.sessions(place.user_id), place.id) for place in places]
        last = self._store.last_entry(table)  # after the sessions: they contain no later change
        found = await asyncio.gather(*replies)
        ends = await last
        if not ends:
            raise _expired()
        ended = await self._ended(places)
        records = [rows[0] if rows and place not in ended else None for rows, place in zip(found, places, strict=True)]
        return records, Position.parse(ends[0][0])

    async def _ended(self, places: Sequence[SessionPlace]) -> set[SessionPlace]:
        """Returns the sessions that have expired and are not removed yet; the feed reports their removal later."""
        user_ids = list({place.user_id for place in places})
        tables = [self._store.tables.sessions(user_id) for user_id in user_ids]
        found = await asyncio.gather(*map(self._store.ended, tables))
        return {SessionPlace(user_id, each) for user_id, (ids, _) in zip(user_ids, found, strict=True) for each in ids}

    @contextmanager
    def listen(self, wake: Callable[[int], None]) -> Iterator[None]:
        """See ``FeedStore``."""
        wakeups = WakeUps(self._store.links, [table.feed for table in self._tables], wake)
        wakeups.start()
        try:
            yield
        finally:
            wakeups.stop()

    # Operation

    async def settings(self) -> FeedSettings | None:
        """Returns the limits of the feed; None if it is off."""
        epoch, entries, seconds = await self._store.layout_fields("feed", "feed_entries", "feed_seconds")
        if epoch is None:
            return None
        return FeedSettings(int(entries or 0) * self.partitions, float(seconds or 0))

    async def turn_on(self, settings: FeedSettings, pause: float = NOTICE_SECONDS) -> bool:
        """Turns the feed on; returns False if it was on, and only its limits were changed.

        A new epoch begins in every partition first, and then in the layout. Until all partitions have it, watches are
        rejected.

        Args:
            settings: the limits.
            pause: seconds to wait until servers of an earlier version have detected the new version of the layout.

        Raises:
            UnsuitableStoreError: the user of the connection lacks permissions; nothing was changed.
        """
        await self._store.check_feed_permissions()
        (present,) = await self._store.layout_fields("feed")
        epoch, is_new = present or new_epoch().encode(), present is None
        if is_new:
            await self._store.raise_version()
            await asyncio.sleep(pause)
        entries = max(1, settings.max_entries // self.partitions)
        seconds = int(settings.retention)
        await self._run_everywhere(scripts.FEED_ON, (epoch, entries, seconds))
        await self._store.set_feed({"feed": epoch, "feed_entries": entries, "feed_seconds": seconds})
        return is_new

    async def turn_off(self) -> bool:
        """Turns the feed off and removes its entries; returns False if it was off."""
        (epoch,) = await self._store.layout_fields("feed")
        await self._store.set_feed(None)
        await self._run_everywhere(scripts.FEED_OFF, ())
        await self._store.lower_version()
        return epoch is not None

    async def _run_everywhere(self, script: scripts.Script, arguments: Sequence[bytes | str | int]) -> None:
        replies = await asyncio.gather(
            *(self._store.run_write(script, table, (table.feed,), arguments) for table in self._tables)
        )
        if Code.STORE_CHANGED.value in replies:
            raise StoreChangedError("the store was emptied, replaced or damaged; nothing was changed")

    async def trim(self) -> None:
        """Removes entries that are too old, if the feed is on."""
        if self._store.has_feed:
            await asyncio.gather(
                *(self._store.run_write(scripts.FEED_TRIM, table, (table.feed,), ()) for table in self._tables)
            )


def _entries(after: Position, last: bytes, pairs: Sequence[bytes], users: Sequence[bytes | None]) -> Entries:
    entries: list[Entry] = []
    number = after.number
    for entry_id, value in zip(pairs[::2], pairs[1::2], strict=True):
        position = Position.parse(entry_id)
        number += 1
        if position.number != number:
            raise _expired()  # entries were removed in the middle of the feed
        entries.append(Entry.parse(position, value))
    found = {int(user_id or 0): record for user_id, record in zip(users[::2], users[1::2], strict=True)}
    return Entries(entries, found, Position.parse(last))


def _disabled() -> WatchDisabledError:
    return WatchDisabledError("the feed of changes is off; an operator can turn it on with userservice feed on")


def _expired() -> WatchTokenExpiredError:
    return WatchTokenExpiredError(
        "the feed no longer contains all changes after this resume_token; start again with a snapshot"
    )
