"""Follows the feed of changes for all watches of a process.

The end of the feed of each partition is read once, for all watches. Watches that are further behind, because their
client is slow or they were resumed, read the feed themselves. A slow watch therefore needs no memory here, and does not
delay other watches.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from userservice.v1.session_pb2 import Session
from userservice.v1.user_pb2 import User
from userservice.v1.view_pb2 import View
from userservice_server.domain.change_ports import Entries, FeedHandle, FeedStore, SessionPlace
from userservice_server.errors import ServiceError, StoreUnavailableError
from userservice_server.wire import changes as wire
from userservice_server.wire.changes import OF_SESSIONS, REMOVALS, USER_DELETED, Entry, Position
from userservice_server.wire.projection import Cut, cut_of
from userservice_server.wire.records import record_key
from userservice_server.wire.watch_tokens import Reached

USERS, SESSIONS = 1, 2
"""The kinds of records that a watch reports, as bits."""

MESSAGE_BYTES = 128 << 10  # of changes in one message; one more change can exceed it
_MOST_ENTRIES = 256  # in one read
_KEPT_BYTES = 8 << 20  # of the end of the feed, for all partitions
_MOST_SLICES = 512  # of a partition
_POLL_SECONDS = 1.0  # between reads without an announcement, which can be lost
_WOKEN_AT_ONCE = 8  # watches; their messages take about a millisecond
# The pause between two reads of a partition, so that one read returns several changes. A message takes about 0.1 ms of
# CPU time for each watch. If the pause grows with the number of watches, messages take at most half of the time.
_PAUSE_SECONDS = 0.002
_PAUSE_SECONDS_PER_WATCH = 0.0002
_RETRY_SECONDS = 0.25
_MOST_READERS = 4  # watches that read older changes at the same time
_ENTRY_BYTES = 256  # estimated memory of a change without a record

logger = logging.getLogger("userservice.feed")


@dataclass(frozen=True, slots=True, eq=False)
class FeedChange:
    """One change to deliver.

    Attributes:
        entry: the entry of the feed; the last one, if the change stands for several entries of one record.
        record: the present record; empty if it was removed.
        user_id: the user_id of the user of a removed session.
    """

    entry: Entry
    record: bytes
    user_id: bytes = b""

    @property
    def is_of_session(self) -> bool:
        """Whether the change concerns a session."""
        return self.entry.kind in OF_SESSIONS

    def is_reported(self, kinds: int) -> bool:
        """Returns whether a watch of these kinds reports the change.

        A watch always reports deletions of users, because they cover the sessions.
        """
        if self.is_of_session:
            return bool(kinds & SESSIONS)
        return bool(kinds & USERS) or self.entry.kind == USER_DELETED

    def encode(self, view: "View.ValueType") -> bytes:
        """Returns the encoded change, with a view of the record."""
        entry, revision = self.entry, self.entry.position.number
        if entry.kind == USER_DELETED:
            return wire.removed_user(revision, entry.key, entry.id)
        if entry.kind in REMOVALS:
            return wire.removed_session(entry.kind, revision, self.user_id, entry.key, entry.id)
        if self.is_of_session:
            return wire.session_change(entry.kind, revision, _view(cut_of(Session, view), self.record))
        return wire.user_change(entry.kind, revision, _view(cut_of(User, view), self.record))


def _view(cut: Cut | None, record: bytes) -> bytes:
    return record if cut is None else cut((record,))[0]


class Batch(NamedTuple):
    """The changes of one message.

    Attributes:
        changes: the encoded changes; an element can contain several changes.
        end: the position that a watch has reached after the batch.
    """

    changes: Sequence[bytes]
    end: Position


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Changes of a partition between two positions.

    Attributes:
        after: the changes follow this position.
        end: the last position whose changes are included.
        seen: the newest position that the records can contain.
        changes: the changes, in order.
        has_sessions: whether changes of sessions are included.
        bytes: estimated memory.
        shared: the batches that watches share, by kinds and view; None if only one watch delivers the slice, because
            the slice then need not keep encoded changes in memory.
    """

    after: Position
    end: Position
    seen: Position
    changes: Sequence[FeedChange]
    has_sessions: bool
    bytes: int
    shared: "dict[tuple[int, View.ValueType], list[Batch]] | None" = None

    def batches(self, after: Position, kinds: int, view: "View.ValueType") -> Iterable[Batch]:
        """Returns the changes after a position that a watch of these kinds reports, in batches of bounded size."""
        if self.shared is None or after != self.after:
            return self._batches(after, kinds, view)
        batches = self.shared.get((kinds, view))
        if batches is None:
            # Without sharing, 100 watches use half of the CPU time to select and join the same changes for each watch.
            joined = [Batch([b"".join(changes)], end) for changes, end in self._batches(after, kinds, view)]
            batches = self.shared[kinds, view] = joined
        return batches

    def _batches(self, after: Position, kinds: int, view: "View.ValueType") -> Iterator[Batch]:
        batch: list[bytes] = []
        size = 0
        for change in self.changes:
            if change.entry.position <= after or not change.is_reported(kinds):
                continue
            encoded = change.encode(view)
            batch.append(encoded)
            size += len(encoded)
            if size >= MESSAGE_BYTES:
                yield Batch(batch, change.entry.position)
                batch, size = [], 0
        if batch:
            yield Batch(batch, self.end)


async def read_slice(
    store: FeedStore, partition: int, feed: FeedHandle, reached: Reached, *, with_sessions: bool
) -> Slice:
    """Reads the next changes of a partition, with the present records.

    If a record no longer exists, a later entry reports its removal, so earlier changes of the record are left out.

    Raises:
        ServiceError: see ``FeedStore.read``.
    """
    found = await store.read(partition, feed, reached, _MOST_ENTRIES)
    entries = _merged(found.entries, with_sessions=with_sessions)
    sessions, seen = await _sessions_of(store, partition, entries, found)
    changes = []
    for entry in entries:
        user = found.users.get(entry.user_id_number)
        if entry.kind == USER_DELETED:
            changes.append(FeedChange(entry, b""))
        elif user is None:
            continue
        elif entry.kind in REMOVALS:
            changes.append(FeedChange(entry, b"", record_key(user)))
        elif (record := sessions.get(entry.id) if entry.kind in OF_SESSIONS else user) is not None:
            changes.append(FeedChange(entry, record))
    end = found.entries[-1].position if found.entries else reached.position
    size = sum(len(change.record) + _ENTRY_BYTES for change in changes)
    return Slice(reached.position, end, max(seen, end), changes, with_sessions, size)


def _merged(entries: Sequence[Entry], *, with_sessions: bool) -> list[Entry]:
    """Returns one entry for each record, at the position of its last entry."""
    merged: dict[tuple[bool, int], Entry] = {}
    for entry in entries:
        is_of_session = entry.kind in OF_SESSIONS
        if not entry.kind or (is_of_session and not with_sessions):
            continue
        earlier = merged.pop((is_of_session, entry.id), None)
        kind = wire.merged_kind(earlier.kind, entry.kind) if earlier else entry.kind
        merged[is_of_session, entry.id] = entry._replace(kind=kind)
    return list(merged.values())


async def _sessions_of(
    store: FeedStore, partition: int, entries: Sequence[Entry], found: Entries
) -> tuple[dict[int, bytes | None], Position]:
    """Returns the sessions that changed, by their ids, and the newest position that the records can contain."""
    places = []
    for entry in entries:
        user = found.users.get(entry.user_id_number)
        if user is not None and entry.kind in OF_SESSIONS and entry.kind not in REMOVALS:
            places.append(SessionPlace(record_key(user).decode(), entry.id))
    if not places:
        return {}, found.last
    records, last = await store.read_sessions(partition, places)
    return {place.id: record for place, record in zip(places, records, strict=True)}, max(found.last, last)


class Follower(Protocol):
    """A watch that follows the end of the feed.

    Attributes:
        with_sessions: whether it reports sessions.
    """

    with_sessions: bool

    @property
    def behind_since(self) -> float | None:
        """The time of the event loop since which the watch has had changes to send; None if there are none."""

    def wake(self) -> None:
        """Called when there are changes."""

    def distrust(self, partition: int) -> None:
        """Called when the history of a partition may have changed: the watch must check its position."""


class Tail:
    """The last changes of a partition, in memory.

    Attributes:
        feed: the epoch of the feed; None until the end of the feed is found.
        reached: how far the feed was read.
        wake: set when there are entries to read.
    """

    def __init__(self, most_bytes: int) -> None:
        self.feed: FeedHandle | None = None
        self.reached = Reached.at(Position(0, 0))
        self.wake = asyncio.Event()
        self._slices: deque[Slice] = deque()
        self._bytes = 0
        self._most_bytes = most_bytes

    def start(self, feed: FeedHandle, end: Position) -> None:
        """Starts at the end of the feed."""
        self._slices.clear()
        self._bytes = 0
        self.feed, self.reached = feed, Reached.at(end)

    def add(self, found: Slice) -> None:
        """Adds the next changes; drops the oldest ones if there are too many."""
        self.reached = Reached(found.end, max(self.reached.seen, found.seen))
        self._slices.append(replace(found, shared={}))
        self._bytes += found.bytes
        while self._bytes > self._most_bytes or len(self._slices) > _MOST_SLICES:
            self._bytes -= self._slices.popleft().bytes

    def note_seen(self, feed: FeedHandle, seen: Position) -> None:
        """Records a position that a watch has seen. If the store loses the position, the history has changed."""
        if feed == self.feed and seen > self.reached.seen:
            self.reached = self.reached._replace(seen=seen)

    def find(self, position: Position, *, with_sessions: bool) -> Slice | None:
        """Returns the changes after a position, if they are in memory."""
        for found in reversed(self._slices):
            if found.after <= position < found.end:
                return found if found.has_sessions or not with_sessions else None
            if found.end <= position:
                return None
        return None


class Feed:
    """The feed of changes, as the watches of a process share it.

    Args:
        store: the feed in the store.
    """

    def __init__(self, store: FeedStore) -> None:
        self.store = store
        self.readers = asyncio.Semaphore(_MOST_READERS)
        self._followers: set[Follower] = set()
        self._tails: list[Tail] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._listening = ExitStack()

    @contextmanager
    def followed_by(self, follower: Follower) -> Iterator[None]:
        """Wakes a watch when there are changes. The first watch starts the reads, the last one ends them."""
        if not self._followers:
            self._start()
        self._followers.add(follower)
        try:
            yield
        finally:
            self._followers.discard(follower)
            if not self._followers:
                self._stop()

    def tail(self, partition: int) -> Tail:
        """Returns the last changes of a partition."""
        return self._tails[partition]

    def lag(self) -> float:
        """Returns for how many seconds the slowest watch has had changes to send."""
        now = asyncio.get_running_loop().time()
        return max((now - since for watch in self._followers if (since := watch.behind_since) is not None), default=0.0)

    def _start(self) -> None:
        count = self.store.partitions
        self._tails = [Tail(_KEPT_BYTES // count) for _ in range(count)]
        self._listening.enter_context(self.store.listen(lambda partition: self._tails[partition].wake.set()))
        self._tasks = [asyncio.create_task(self._follow(number, tail)) for number, tail in enumerate(self._tails)]

    def _stop(self) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    async def _follow(self, partition: int, tail: Tail) -> None:
        """Reads the end of the feed of a partition until cancelled."""
        while True:
            try:
                await self._follow_epoch(partition, tail)
            except StoreUnavailableError:
                pass  # the supervision of the store logs the cause; the position is kept
            except ServiceError:
                self._distrust(partition, tail)
            except Exception:
                logger.exception("the feed of changes cannot be read")
                self._distrust(partition, tail)
            await asyncio.sleep(_RETRY_SECONDS)

    def _distrust(self, partition: int, tail: Tail) -> None:
        tail.feed = None
        for follower in self._followers:
            follower.distrust(partition)

    async def _follow_epoch(self, partition: int, tail: Tail) -> None:
        feed = tail.feed
        if feed is None:
            feed, ends = await self.store.ends()
            tail.start(feed, ends[partition])
            await self._wake_followers()
        while True:
            tail.wake.clear()
            with_sessions = any(follower.with_sessions for follower in self._followers)
            found = await read_slice(self.store, partition, feed, tail.reached, with_sessions=with_sessions)
            if found.end == tail.reached.position:
                await self._announcement(tail)
                continue
            tail.add(found)
            await self._wake_followers()
            await asyncio.sleep(max(_PAUSE_SECONDS, _PAUSE_SECONDS_PER_WATCH * len(self._followers)))

    async def _announcement(self, tail: Tail) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL_SECONDS):
                await tail.wake.wait()

    async def _wake_followers(self) -> None:
        """Wakes the watches in groups, so that other calls run between the messages of two groups."""
        for number, follower in enumerate(tuple(self._followers), 1):
            follower.wake()
            if number % _WOKEN_AT_ONCE == 0:
                await asyncio.sleep(0)
