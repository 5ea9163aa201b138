"""The interface between the domain and the store of records, which ``store/`` implements on Redis.

Table and StoreIdentity are handles: the domain receives them from a store, and only passes them back to this store.
"""

from asyncio import Future
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from userservice_server.wire.outcomes import Outcome

MOST_STORES = 4  # attempts of a call, if the store is emptied or replaced during each of them

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Identifies a write, so that a repeated write returns the outcome of the first one.

    Attributes:
        request_id: the field ``request_id`` of the request, in canonical form; empty if the caller sent none.
        fingerprint: a digest of the other fields, to recognize a different request with the same request_id; empty if
            there is no request_id.
    """

    request_id: str
    fingerprint: bytes


NO_IDEMPOTENCY_KEY = IdempotencyKey("", b"")


class Table(Protocol):
    """Handle of a table of records: the users of a partition, or the sessions of one user.

    Handles of one table are equal and hash equal.
    """

    @property
    def owner(self) -> str:
        """The user_id of the user to whom the sessions belong; empty in a table of users."""


class StoreIdentity:
    """Handle of the store that the server expects. It differs after the store was emptied or replaced."""

    __slots__ = ()


class FindQuery(NamedTuple):
    """A search for users of one partition by e-mail address.

    Attributes:
        keys: the keys of the normalized addresses (see wire/emails.py), each once.
        after: only users with larger ids.
        limit: maximum number of users.
        most_of_one: maximum number of users of one address that are examined.
        most_bytes: bytes of records after which the search ends.
    """

    keys: Sequence[int]
    after: int
    limit: int
    most_of_one: int
    most_bytes: int


class FoundUsers(NamedTuple):
    """The result of a search.

    Attributes:
        reached: the records contain all matching users up to this id; 0 if they contain all.
        records: records in the order of their ids. Some can have another address, because keys are not unique.
    """

    reached: int
    records: list[bytes]


class Ends(NamedTuple):
    """The number of records of several tables, and the first or the last of these records.

    Attributes:
        size: the number of records.
        record: a list of one record, or an empty list.
    """

    size: int
    record: list[bytes]


class TableRead(NamedTuple):
    """A range of a table to read: up to ``most`` records after the id ``after``, in the order of the list."""

    table: "Table"
    after: int
    most: int


class Tables(Protocol):
    """The tables of a store."""

    def users(self, user_id: str) -> Table:
        """Returns the table that holds this user."""

    def all_users(self) -> Sequence[Table]:
        """Returns the tables of users of all partitions."""

    def by_partition(self, user_ids: Sequence[str]) -> Sequence[tuple[Table, Sequence[int]]]:
        """Returns the tables that hold these users, and for each table the positions of its users in ``user_ids``."""

    def sessions(self, user_id: str) -> Table:
        """Returns the table of the sessions of this user."""


class RecordStore(Protocol):
    """A store of encoded records (see wire/records.py).

    Each write is atomic, and also writes an idempotency record of its outcome. If there is an idempotency record for
    the key already, the write changes nothing and returns the recorded outcome, or REQUEST_ID_REUSED if the fingerprint
    differs.

    All methods raise StoreUnavailableError if the store is unavailable, StoreFullError if it has no memory left, and
    StoreChangedError if it was emptied, replaced or damaged.
    """

    @property
    def tables(self) -> Tables:
        """The tables of the store."""

    @property
    def identity(self) -> StoreIdentity:
        """The store that the server expects. A read of several steps uses one identity from start to end."""

    async def add(
        self,
        table: Table,
        key: str,
        head: bytes,
        tail: bytes,
        idempotency_key: IdempotencyKey,
        *,
        is_update: bool = False,
        ends_at: int | None = None,
    ) -> Outcome:
        """Adds a record made of ``head``, the id that the store assigns, and ``tail``.

        If ``ends_at`` is given, the session expires at this time (microseconds since 1970, by the store's clock). All
        methods except ``range``, ``newest``, ``oldest`` and ``size`` treat an expired session as absent.

        Returns DONE with the record, EXISTS, OWNER_NOT_FOUND, SESSION_LIMIT, or TIME_PASSED if ``ends_at`` has passed;
        if ``is_update``, CONFLICT with the present record instead of EXISTS.
        """

    async def get(self, table: Table, key: str) -> Outcome:
        """Returns DONE with the record, NOT_FOUND or OWNER_NOT_FOUND."""

    async def get_many(self, table: Table, keys: Sequence[str], identity: StoreIdentity) -> list[bytes | None]:
        """Returns the records of the keys, in their order; None for a key without a record.

        Raises StoreChangedError if the store is not the one of ``identity``.
        """

    async def find(self, table: Table, query: FindQuery, identity: StoreIdentity) -> FoundUsers:
        """Finds users of a partition by their e-mail addresses.

        Raises IndexNotReadyError if the e-mail index is not complete, and StoreChangedError if the store is not the one
        of ``identity``, or ``query.after`` is a cursor of another store.
        """

    async def replace(
        self,
        table: Table,
        key: str,
        old: bytes,
        verdict: Outcome,
        idempotency_key: IdempotencyKey,
        *,
        ends_at: int | None = None,
        is_reported: bool = True,
    ) -> Outcome:
        """Applies ``verdict`` if ``old`` is still the record of this key (compare-and-set).

        If ``ends_at`` is given, the new record expires at this time, which is not before the expiry of the old record.
        The feed of changes contains the replacement if ``is_reported``.

        A verdict DONE carries the new record; any other verdict rejects the request. Returns the verdict, NOT_FOUND,
        OWNER_NOT_FOUND, or CONFLICT with the present record, if there is one.
        """

    async def delete(
        self,
        table: Table,
        key: str,
        old: bytes,
        verdict: Outcome,
        idempotency_key: IdempotencyKey,
        owned: Table | None = None,
    ) -> Outcome:
        """Applies ``verdict`` if ``old`` is empty or still the record of this key.

        A verdict DONE removes the record, and the table ``owned`` by it; any other verdict rejects the request. Returns
        the verdict, NOT_FOUND, OWNER_NOT_FOUND or CONFLICT.
        """

    def range(
        self,
        table: Table,
        after: int,
        count: int,
        identity: StoreIdentity,
        *,
        is_resumed: bool = False,
        descending: bool = False,
        end: int = 0,
    ) -> "Future[list[bytes]]":
        """Starts to read up to ``count`` records with ids above ``after``, in the order of their ids.

        If ``descending``, it reads ids below ``after`` instead, the largest first; 0 starts at the newest record. If
        ``end`` is not 0, it reads no ids above ``end``; not together with ``descending``.

        Raises StoreChangedError, or sets it in the future, if the store is not the one of ``identity``, if
        ``is_resumed`` and ``after`` is a cursor of another store, or if ``end`` is one.
        """

    async def ranges(
        self, reads: Sequence[TableRead], identity: StoreIdentity, *, is_resumed: bool, descending: bool, end: int
    ) -> list[list[bytes]]:
        """Reads ranges of several tables, as ``range`` does; each record is followed by its id.

        The store may write an id with an exponent (1.5e+14).

        Raises the errors of ``range``.
        """

    def newest(self, table: Table, end: int = 0) -> "Future[list[bytes]]":
        """Starts to read the newest record, or the newest with an id up to ``end``; returns a list of one or none."""

    def oldest(self, table: Table) -> "Future[list[bytes]]":
        """Starts to read the oldest record. Returns a list of one record, or an empty list."""

    def size(self, table: Table) -> "Future[int]":
        """Starts to count the records."""

    @property
    def is_joint(self) -> bool:
        """Whether several tables of users are all on one server; ``joint_range`` and ``joint_ends`` then read them."""

    async def joint_range(
        self, after: int, count: int, identity: StoreIdentity, *, is_resumed: bool, descending: bool, end: int
    ) -> list[bytes]:
        """Reads up to ``count`` users of all partitions in the order of their ids; see ``range``."""

    async def joint_ends(self, *, descending: bool, end: int) -> Ends:
        """Returns the number of users, and the newest user, or the newest with an id up to ``end``.

        If ``descending``, it returns the oldest user instead of the newest.
        """

    def has_owner(self, table: Table) -> "Future[int]":
        """Starts to check whether the owner of the table exists. Returns 1 or 0."""

    async def cuts(self, table: Table, parts: int, identity: StoreIdentity) -> list[int]:
        """Divides the records into up to ``parts`` ranges of almost the same number of records.

        Returns the last id of each range, in increasing order; none if the table has no records. Raises
        StoreChangedError if the store is not the one of ``identity``.
        """

    async def fence(self) -> int:
        """Makes all ids that are assigned later larger than all ids that exist now, even if the clocks differ.

        Returns an id that lies between: at least as large as all ids that exist now, and smaller than all later ids.
        """

    async def now(self, table: Table) -> int:
        """Returns the time of the clock of the store, on the server of the table, in microseconds since 1970."""

    async def ended(self, table: Table) -> "tuple[frozenset[int], int]":
        """Returns the ids of the expired sessions that are still in the table, and the number of the other sessions."""

    async def revoke(self, table: Table, kept: str, idempotency_key: IdempotencyKey) -> Outcome:
        """Removes all sessions of the table, except the session with the session_id ``kept`` (empty: none).

        Returns DONE with an encoded RevokeUserSessionsResponse, or OWNER_NOT_FOUND.
        """

    async def reread(self, read: Callable[[], Awaitable[T]]) -> T:
        """Runs a read that depends on no earlier read; repeats it if the store changes during the read."""

    async def look_again(self, expected: StoreIdentity) -> None:
        """Identifies the store again, after a call that expected the store ``expected`` found another store."""

    def distrust(self) -> None:
        """Closes the connections after a reply that cannot be right. The next call makes new connections."""
