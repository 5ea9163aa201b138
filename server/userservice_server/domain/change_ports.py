"""The interface between the domain and the feed of changes, which ``store/`` implements on Redis."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from userservice_server.wire.changes import Entry, Position
from userservice_server.wire.watch_tokens import Reached


class FeedHandle(NamedTuple):
    """Handle of one epoch of the feed of one store.

    Attributes:
        digest: identifies the store and the epoch in tokens.
        store_id: the id of the store.
        epoch: the epoch.
    """

    digest: bytes
    store_id: bytes
    epoch: bytes


class Entries(NamedTuple):
    """Entries of the feed, and the users that they concern.

    Attributes:
        entries: the entries, without a gap.
        users: the records of the users, by their ids; None for a user that does not exist any more.
        last: the position of the newest entry of the partition when the users were read.
    """

    entries: Sequence[Entry]
    users: dict[int, bytes | None]
    last: Position


class SessionPlace(NamedTuple):
    """Where a session is stored: the user_id of its user, and its id."""

    user_id: str
    id: int


class FeedStore(Protocol):
    """The feed of changes: a list of entries for each partition, to which every write appends.

    All methods raise StoreUnavailableError if the store is unavailable.
    """

    @property
    def partitions(self) -> int:
        """The number of partitions."""

    def history(self) -> object:
        """Returns an object that differs from earlier ones if a connection to the store was replaced meanwhile.

        If two calls return equal objects, all replies between them are from the same servers and the same histories.
        """

    async def ends(self) -> tuple[FeedHandle, list[Position]]:
        """Returns the present epoch, and the position of the newest entry of each partition.

        Raises:
            WatchDisabledError: the feed is off.
            StoreChangedError: the store was emptied, replaced or damaged.
        """

    async def read(self, partition: int, feed: FeedHandle, reached: Reached, count: int) -> Entries:
        """Returns the entries after a position, at most ``count``, and the users that they concern.

        Raises:
            WatchDisabledError: the feed is off.
            WatchTokenExpiredError: the entries after the position are not complete, because the store has lost or
                removed some, or is another store or in another epoch.
        """

    async def read_sessions(
        self, partition: int, places: Sequence[SessionPlace]
    ) -> tuple[list[bytes | None], Position]:
        """Returns the sessions at these places, None for a session that does not exist, and the newest position."""

    def listen(self, wake: Callable[[int], None]) -> AbstractContextManager[None]:
        """Calls ``wake`` with the number of a partition soon after an entry was appended to its feed."""
