"""Watches: streams of the changes of users and sessions, from a position or after a snapshot of all users."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from userservice.v1.view_pb2 import View
from userservice_server.domain.change_ports import FeedHandle
from userservice_server.domain.feed import SESSIONS, USERS, Feed, Slice, read_slice
from userservice_server.domain.snapshots import Snapshots
from userservice_server.errors import InvalidFieldsError, StoreUnavailableError, Violation, WatchTokenExpiredError
from userservice_server.wire.changes import response
from userservice_server.wire.watch_tokens import Reached, Token


class Message(NamedTuple):
    """A message of a watch: an encoded WatchUsersResponse, and the number of users of a snapshot in it."""

    encoded: bytes
    users: int


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What a watch reports.

    Attributes:
        kinds: USERS and SESSIONS, as bits.
        view: the fields of the records.
        heartbeat: seconds after which a message without changes is sent.
        token: where the watch resumes; None: it starts now.
        snapshot: whether a watch that starts now begins with a snapshot.
    """

    kinds: int
    view: "View.ValueType"
    heartbeat: float
    token: Token | None = None
    snapshot: bool = False


class Watches:
    """Opens watches.

    Args:
        feed: the feed of changes.
        snapshots: reads snapshots.
    """

    def __init__(self, feed: Feed, snapshots: Snapshots) -> None:
        self._feed = feed
        self._snapshots = snapshots

    async def open(self, options: WatchOptions, is_over: Callable[[], bool]) -> "Watch":
        """Returns a watch, whose start is the present time or the position of its token.

        Args:
            options: what the watch reports.
            is_over: returns whether the watch must end; called whenever the watch is woken up.

        Raises:
            InvalidFieldsError: the kinds are not those of the token.
            WatchDisabledError: the feed is off.
            WatchTokenExpiredError: the token belongs to another store or epoch.
        """
        handle, ends = await self._feed.store.ends()
        token = options.token
        if token is None:
            token = Token(handle.digest, options.kinds, list(map(Reached.at, ends)), 0 if options.snapshot else None)
        elif token.feed != handle.digest or len(token.reached) != len(ends):
            raise WatchTokenExpiredError(
                "the resume_token is from another store, or the feed was turned off and on; start again with a snapshot"
            )
        elif token.kinds != options.kinds:
            raise InvalidFieldsError([Violation("kinds", "must be the kinds of the watch that is resumed")])
        return Watch(self._feed, self._snapshots, handle, options, token, is_over)


class Watch:
    """A watch.

    Attributes:
        with_sessions: whether it reports sessions.
        behind_since: the time of the event loop since which the watch has had changes to send; None if it had sent all
            changes at its last read.
    """

    def __init__(
        self,
        feed: Feed,
        snapshots: Snapshots,
        handle: FeedHandle,
        options: WatchOptions,
        token: Token,
        is_over: Callable[[], bool],
    ) -> None:
        self.with_sessions = bool(options.kinds & SESSIONS)
        self.behind_since: float | None = None
        self._feed = feed
        self._snapshots = snapshots
        self._handle = handle
        self._options = options
        self._start = token
        self._is_over = is_over
        self._reached = list(token.reached)
        self._unchecked = set(range(len(self._reached)))  # partitions in which the position must be checked
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Makes the watch read new changes, and check whether it must end."""
        self._news.set()
        if self.behind_since is None:
            self.behind_since = asyncio.get_running_loop().time()

    def distrust(self, partition: int) -> None:
        """Makes the watch check its position in a partition, because the history of the partition may have changed."""
        self._unchecked.add(partition)
        self.wake()

    async def messages(self) -> AsyncGenerator[Message]:
        """Yields the messages until the watch is over.

        Raises:
            ServiceError: see ``FeedStore.read``; in a snapshot, see ``RecordStore.range``.
        """
        if self._options.token is not None:
            # Before the first message, because a heartbeat would return the expired token as a valid one.
            await self._check_positions()
        if self._start.cursor is not None:
            async with aclosing(self._snapshot(self._start.cursor)) as messages:
                async for message in messages:
                    yield message
                    if self._is_over():
                        return
        with self._feed.followed_by(self):
            async with aclosing(self._changes()) as batches:
                async for batch in batches:
                    yield Message(response(batch, self._token(), snapshot_complete=True), 0)

    def _token(self, cursor: int | None = None, session_cursor: int | None = None) -> str:
        return Token(self._handle.digest, self._options.kinds, self._reached, cursor, session_cursor).encode()

    async def _snapshot(self, cursor: int) -> AsyncGenerator[Message]:
        """Yields the rest of the snapshot. The changes since its start follow."""
        pages = self._snapshots.read(
            cursor,
            self._start.session_cursor,
            self._options.view,
            with_users=bool(self._options.kinds & USERS),
            with_sessions=self.with_sessions,
        )
        history = self._feed.store.history()
        async with aclosing(pages) as found:
            async for page in found:
                await self._note_ends(history)
                token = self._token(page.cursor, page.session_cursor)
                is_complete = page.cursor is None
                yield Message(response(page.changes, token, snapshot_complete=is_complete), page.users)

    async def _note_ends(self, history: object) -> None:
        """Notes the newest entries that the records of a snapshot can contain, before the records are sent.

        If the store loses one of these entries in a failover, the next check of the position finds it.

        Raises:
            StoreUnavailableError: the records may come from another history than the newest entries.
            WatchTokenExpiredError: the feed was turned off and on.
        """
        handle, ends = await self._feed.store.ends()
        if handle != self._handle:
            raise WatchTokenExpiredError("the feed was turned off and on; start again with a snapshot")
        if self._feed.store.history() != history:
            raise StoreUnavailableError("a connection to the store was lost during the snapshot; resume the watch")
        self._reached = [
            Reached(reached.position, max(reached.seen, end)) for reached, end in zip(self._reached, ends, strict=True)
        ]

    async def _changes(self) -> AsyncGenerator[Sequence[bytes]]:
        """Yields the encoded changes of each message; an empty list for a heartbeat, and at the start."""
        loop = asyncio.get_running_loop()
        self.behind_since = due = loop.time()
        while not self._is_over():
            self._news.clear()
            has_found = False
            for partition in range(len(self._reached)):
                if (found := await self._next(partition)) is None:
                    continue
                has_found = True
                for batch in self._batches(partition, found):
                    yield batch
                    due = loop.time() + self._options.heartbeat
            if not has_found and not self._news.is_set():
                self.behind_since = None
            if loop.time() >= due:
                yield []
                due = loop.time() + self._options.heartbeat
            elif not has_found:
                await self._wait_until(due)

    async def _check_positions(self) -> None:
        await asyncio.gather(*(self._check_position(partition) for partition in range(len(self._reached))))

    async def _check_position(self, partition: int) -> None:
        async with self._feed.readers:
            await self._feed.store.read(partition, self._handle, self._reached[partition], 0)

    async def _wait_until(self, due: float) -> None:
        timer = asyncio.get_running_loop().call_at(due, self._news.set)  # takes a third of the time of asyncio.timeout
        try:
            await self._news.wait()
        finally:
            timer.cancel()

    async def _next(self, partition: int) -> Slice | None:
        """Returns the next changes of a partition; None if there are none at present."""
        tail, reached = self._feed.tail(partition), self._reached[partition]
        if partition not in self._unchecked and tail.feed == self._handle:
            if (found := tail.find(reached.position, with_sessions=self.with_sessions)) is not None:
                return found
            if tail.reached.position == reached.position:
                return None
        is_followed = tail.feed == self._handle
        async with self._feed.readers:
            found = await read_slice(
                self._feed.store, partition, self._handle, reached, with_sessions=self.with_sessions
            )
        if is_followed:  # else the history could change before the tail starts, and the tail would not detect this
            self._unchecked.discard(partition)
        tail.note_seen(self._handle, found.seen)
        self._reached[partition] = Reached(reached.position, max(reached.seen, found.seen))
        return None if found.end == reached.position else found

    def _batches(self, partition: int, found: Slice) -> Iterator[Sequence[bytes]]:
        """Yields the changes in lists of bounded size, and moves the position in the partition past each list."""
        after, seen = self._reached[partition]
        seen = max(seen, found.seen)
        for changes, end in found.batches(after, self._options.kinds, self._options.view):
            self._reached[partition] = Reached(end, seen)
            yield changes
        self._reached[partition] = Reached(found.end, seen)
