"""The source of a migration: marks it, and reads its records in pages."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from userservice_server.check.reading import PAGE, Reader, batches
from userservice_server.config import ConfigError
from userservice_server.migration.session_counts import sessions_by_partition
from userservice_server.store.keys import LAYOUT_VERSIONS, Keys, Table, role_of
from userservice_server.store.partitions import PARTITION_COUNTS
from userservice_server.wire.changes import Position
from userservice_server.wire.records import record_key

MOVED = "moved"
"""Field of the layout of a store that was marked; the store ids of its partitions end with the same word."""

# Kinds of keys that a migration copies or creates again, and those that it refuses. A migration also refuses any other
# kind of key, and any other field of the layout.
_OF_SESSIONS = frozenset({"session_count", "sessions", "session_ids", "session_expiry", "expiry"})
COPIED = (
    frozenset({"layout", "users", "user_ids", "last_id", "store_id", "request", "feed", "emails", "shared_emails"})
    | _OF_SESSIONS
)
OF_IMPORTS = frozenset({"import", "import_errors"})
FEED_FIELDS = (b"feed", b"feed_entries", b"feed_seconds")
INDEX_FIELDS = (b"email_index", b"email_unicode", b"email_done")
COPIED_FIELDS = frozenset({b"version", b"partitions", b"store_id", b"lowest_id", *FEED_FIELDS, *INDEX_FIELDS})

KNOWN_VERSIONS = frozenset(b"%d" % version for version in LAYOUT_VERSIONS)

Row = tuple[bytes, bytes]  # a record and its id in decimal digits


@dataclass(frozen=True, slots=True)
class User:
    """A user to copy: its record, the rows of its sessions, and the ids of sessions that expire, each with its time."""

    user_id: str
    row: Row
    sessions: list[Row]
    ends: list[Row]


class Source:
    """A store whose layout is complete.

    Attributes:
        keys: the keys of the store.
        store_id: its store id.
        lowest_id: the lowest id that it has assigned; 0 if unknown.
        feed: about how many entries its feed of changes keeps, and for how many seconds; None if the feed is off.
        is_marked: whether an earlier migration has marked it.

    Raises:
        ConfigError: there is no such store, or it has data that cannot be migrated.
    """

    def __init__(self, reader: Reader, prefix: str) -> None:
        self._reader = reader
        self._prefix = prefix
        layout = reader.read([("HGETALL", f"{prefix}:layout")])[0]
        if not layout:
            raise ConfigError(f"there is no store under the key prefix {prefix} at --from")
        partitions = int(layout.get(b"partitions", b"0"))
        if layout.get(b"version") not in KNOWN_VERSIONS or partitions not in PARTITION_COUNTS:
            raise ConfigError("the store at --from has an unknown layout")
        if b"store_id" not in layout or b"creating" in layout:
            raise ConfigError("the store at --from is not complete; start userservice serve on it once")
        if unknown := layout.keys() - COPIED_FIELDS - {MOVED.encode()}:
            names = ", ".join(sorted(name.decode(errors="replace") for name in unknown))
            raise ConfigError(f"the layout of the store at --from has fields that cannot be migrated: {names}")
        self.keys = Keys(prefix, partitions)
        self.store_id: bytes = layout[b"store_id"]
        self.lowest_id = int(layout.get(b"lowest_id", b"0"))
        has_feed = all(name in layout for name in FEED_FIELDS)
        self.feed = (int(layout[b"feed_entries"]) * partitions, int(layout[b"feed_seconds"])) if has_feed else None
        self.is_marked = MOVED.encode() in layout

    def check_roles(self) -> None:
        """Raises ConfigError if the store has keys of a kind that a migration does not copy."""
        for key in self._reader.scan(f"{self._prefix}:{{*"):
            role, _ = role_of(key, self._prefix)
            if role in OF_IMPORTS:
                raise ConfigError("the store at --from has records of imports, which expire 7 days after the import")
            if role not in COPIED:
                raise ConfigError(f"the store at --from has keys of the kind {role!r}, which cannot be migrated")

    def mark(self) -> None:
        """Changes the store ids, so that all servers reject writes and lists; can be repeated."""
        self._reader.read([("HSET", self.keys.layout, MOVED, "1")])
        moved = self.store_id + b"-" + MOVED.encode()
        self._reader.read([("SET", table.store_id, moved) for table in self.keys.all_users()])

    def pages(self, table: Table, after: bytes) -> Iterator[list[User]]:
        """Yields the users of a partition in the order of their ids, with their sessions."""
        for rows in self._reader.pages(table.rows, after):
            user_ids = [record_key(record).decode() for record, _ in rows]
            tables = [self.keys.sessions(user_id) for user_id in user_ids]
            counts = self._reader.read([("ZCARD", sessions.rows) for sessions in tables])
            yield [
                User(user_id, row, *self._sessions(sessions)) if count else User(user_id, row, [], [])
                for user_id, row, sessions, count in zip(user_ids, rows, tables, counts, strict=True)
            ]

    def _sessions(self, table: Table) -> tuple[list[Row], list[Row]]:
        """Returns the rows of the sessions of a user, and the ids of sessions that expire, each with its time."""
        [ends] = self._reader.read([("ZRANGE", table.session_expiry, 0, -1, "WITHSCORES")])
        rows = list(chain.from_iterable(self._reader.pages(table.rows)))
        return rows, list(zip(ends[::2], ends[1::2], strict=True))

    def requests(self) -> Iterator[tuple[bytes, bytes, int]]:
        """Yields the idempotency records: request_id, content, and the milliseconds until it expires."""
        found = self._reader.scan(f"{self._prefix}:{{*}}:request:*")  # also finds keys whose user_id matches
        own = (key for key in found if role_of(key, self._prefix)[0] == "request")
        for keys in batches(own, PAGE):
            contents = self._reader.read([("GET", key) for key in keys])
            times = self._reader.read([("PTTL", key) for key in keys])
            for key, content, milliseconds in zip(keys, contents, times, strict=True):
                if content is not None and milliseconds > 0:
                    yield key.rpartition(b":")[2], content, milliseconds

    def last_id(self) -> int:
        """Returns the largest id that the store has assigned."""
        return max(int(found) for found in self._reader.read([("GET", t.last_id) for t in self.keys.all_users()]))

    def last_change(self) -> int:
        """Returns the largest number of an entry of the feed of changes; 0 if there is none."""
        reading = [("XREVRANGE", table.feed, "+", "-", "COUNT", 1) for table in self.keys.all_users()]
        entries = [found[0] for found in self._reader.read(reading) if found]
        return max((Position.parse(entry_id).number for entry_id, _ in entries), default=0)

    def users(self) -> int:
        """Returns the number of users."""
        return sum(self._reader.read([("ZCARD", table.rows) for table in self.keys.all_users()]))

    def sessions(self) -> int:
        """Returns the number of sessions."""
        return sum(sessions_by_partition(self._reader, self.keys, self._prefix))
