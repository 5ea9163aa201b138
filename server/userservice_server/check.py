"""``userservice check``: whether a store is what docs/architecture.md says, found out by reading alone.

Everything is read in pages, so Redis is never busy for long, and what looks wrong is read once more in one
transaction, so that a service that writes meanwhile causes no false alarm.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from google.protobuf.message import DecodeError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.retry import Retry

from userservice.v1.session_pb2 import Session
from userservice.v1.user_pb2 import User
from userservice_server.config import ConfigError, unreadable_redis_url
from userservice_server.store.failures import why
from userservice_server.store.keys import LAYOUT_VERSION, MAX_PARTITIONS, Keys, Table
from userservice_server.wire.idempotency import FINGERPRINT_BYTES
from userservice_server.wire.ids import MAX_ID
from userservice_server.wire.outcomes import RECORDED_LETTERS
from userservice_server.wire.records import FRAME_TAG, ID_TAG, key_field
from userservice_server.wire.varint import try_read_varint, varint

_MOST_DIGITS = 20  # beyond any number that the service writes; int() refuses thousands of them
_END_LOOKS, _END_PAUSE = 10, 0.05
_PAGE = 256  # records a read: 16 MiB at the most
_LAYOUT_FIELDS = {b"version", b"partitions", b"store_id", b"lowest_id"}
_TYPES = {
    "layout": b"hash",
    "users": b"zset",
    "user_ids": b"hash",
    "last_id": b"string",
    "store_id": b"string",
    "sessions": b"zset",
    "session_ids": b"hash",
    "request": b"string",
}

_OF_A_LONGER_PREFIX = re.compile(rb"[A-Za-z0-9_.:-]+:(layout$|\{[0-9]+\}:)")  # another service's, such as PREFIX:test

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the store that ought not to be.

    Attributes:
        what: says it with ids alone, which are nobody's data.
        key: where it is. May hold a user_id.
    """

    what: str
    key: bytes


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found."""

    users: int = 0
    sessions: int = 0
    requests: int = 0
    findings: list[Finding] = field(default_factory=list)


def check(url: str, key_prefix: str, timeout: float, ended: Callable[[], str | None] | None = None) -> Report:
    """Checks the store at ``url`` under ``key_prefix``.

    Args:
        url: where it is.
        key_prefix: what its keys begin with.
        timeout: seconds that connecting and each reply may take.
        ended: says why the store ended, if it did; for one that this program runs.

    Raises:
        ConfigError: there is no store, none under this prefix, or one of a layout that this version does not know.
    """
    try:
        client = Redis.from_url(
            url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=timeout, socket_connect_timeout=timeout
        )
        client.connection_pool.make_connection()  # is not connected: only sees whether it takes the options of the URL
    except (ValueError, TypeError, RedisError):
        raise unreadable_redis_url() from None
    with client:
        try:
            _wait_for_loading(client)
            return _Check(client, key_prefix).run()
        except RedisError as error:
            raise ConfigError(
                (ended and _reason(ended)) or f"the store at --redis-url cannot be read: {why(error)}"
            ) from error


def _reason(ended: Callable[[], str | None]) -> str | None:
    """What ``ended`` says, be it a moment later: the connection to a store that ends is lost a little earlier."""
    for _ in range(_END_LOOKS):
        if reason := ended():
            return reason
        time.sleep(_END_PAUSE)
    return None


def _wait_for_loading(client: Redis) -> None:
    """Waits for a store that has just been started, which takes as long as its data are large."""
    while True:
        try:
            client.ping()
        except BusyLoadingError:
            time.sleep(0.1)
        else:
            return


class _Check:
    def __init__(self, client: Redis, key_prefix: str) -> None:
        self._client = client
        self._prefix = key_prefix
        self._report = Report()
        self._has_id = False  # the store, unlike one of the first release
        self._seen: set[bytes] = set()  # tables of sessions, which a scan may name twice

    def run(self) -> Report:
        self._keys = Keys(self._prefix, self._layout())
        self._store_id()
        for table in self._keys.all_users():
            if self._has_types({table.rows: b"zset", table.index: b"hash", table.last_id: b"string"}):
                self._report.users += self._table(table, User)
        for keys in _batches(self._client.scan_iter(match=f"{self._prefix}:*", count=_PAGE), _PAGE):
            types = self._read([("TYPE", key) for key in keys])
            for key, kind in zip(keys, types, strict=True):
                self._key(key, kind)
        return self._report

    def _find(self, what: str, key: bytes) -> None:
        self._report.findings.append(Finding(what, key))

    def _read(self, commands: Iterable[Sequence[bytes | str | float]], *, at_once: bool = False) -> list[Any]:
        """Returns the replies to commands sent together; ``at_once`` also makes nobody else's come in between."""
        with self._client.pipeline(transaction=at_once) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            return pipeline.execute()

    def _layout(self) -> int:
        """Checks what the store says of itself; returns the number of its partitions."""
        key = f"{self._prefix}:layout".encode()
        [kind] = self._read([("TYPE", key)])
        if kind == b"none":
            if at_least := self._partitions_without_layout():
                self._find("the layout is missing", key)
                return at_least
            raise ConfigError(f"there is no store under the key prefix {self._prefix}")
        layout = self._read([("HGETALL", key)])[0] if kind == b"hash" else {}
        version, partitions = (_number(layout.get(name, b"")) for name in (b"version", b"partitions"))
        if version != LAYOUT_VERSION:
            raise ConfigError(f"the store's layout is of a version that is not known here, not {LAYOUT_VERSION}")
        if partitions is None or not 1 <= partitions <= MAX_PARTITIONS:
            raise ConfigError(f"the store's number of partitions is not one from 1 to {MAX_PARTITIONS}")
        if extra := len(layout.keys() - _LAYOUT_FIELDS):
            self._find(f"the layout has {extra} fields that are not known", key)
        return partitions

    def _partitions_without_layout(self) -> int:
        """Returns how many partitions there are at least, by keys that every store has; 0 if there is no such key."""
        tables = Keys(self._prefix, MAX_PARTITIONS).all_users()
        found = self._read([("EXISTS", table.store_id, table.rows, table.index, table.last_id) for table in tables])
        return max((number for number, exists in enumerate(found, 1) if exists), default=0)

    def _store_id(self) -> None:
        """Checks that layout and partitions have one store id; a store of the first release has none anywhere."""
        tables = self._keys.all_users()
        places = {table.store_id: b"string" for table in tables} | {self._keys.layout: b"hash"}
        if not self._has_types(places):
            return
        # At once, for a service may give the store its id meanwhile, in one step.
        reading = [("HGET", self._keys.layout, "store_id"), *(("GET", table.store_id) for table in tables)]
        expected, *ids = self._read(reading, at_once=True)
        if expected is None and not any(ids):
            return
        self._has_id = True
        if expected is None and b"none" not in self._read([("TYPE", self._keys.layout)]):
            self._find("the layout has no store id", self._keys.layout)
        expected = expected or next(filter(None, ids))
        for table, store_id in zip(tables, ids, strict=True):
            if store_id is None:
                self._find(f"partition {table.partition} has no store id", table.store_id)
            elif store_id != expected:
                self._find(f"partition {table.partition} has the id of another store", table.store_id)

    def _has_types(self, expected: dict[bytes, bytes]) -> bool:
        """Whether keys are of their types or not there; what is not gets found by the scan."""
        types = self._read([("TYPE", key) for key in expected])
        return all(kind in (b"none", wanted) for kind, wanted in zip(types, expected.values(), strict=True))

    def _key(self, key: bytes, kind: bytes) -> None:
        """Checks a key that the scan came upon."""
        if key == self._keys.layout or _OF_A_LONGER_PREFIX.match(key, len(self._prefix) + 1):
            return
        place, _, rest = key.removeprefix(f"{self._prefix}:".encode()).partition(b":")
        role, _, name = rest.partition(b":")
        partition = _number(place[1:-1]) if place.startswith(b"{") and place.endswith(b"}") else None
        wanted = _TYPES.get(role.decode(errors="replace"))
        is_named = role in (b"sessions", b"session_ids", b"request")
        if partition is None or partition >= len(self._keys.all_users()) or wanted is None or is_named != bool(name):
            if kind != b"none":  # gone since
                self._find(f"a key of no known kind ({kind.decode()})", key)
        elif kind not in (b"none", wanted):
            self._find(f"a key for {role.decode()} is a {kind.decode()}, not a {wanted.decode()}", key)
        elif role == b"request":
            self._request(key)
        elif is_named:
            self._sessions(key, name, partition)

    def _request(self, key: bytes) -> None:
        ttl, recorded = self._read([("PTTL", key), ("GET", key)], at_once=True)
        if recorded is None:
            return
        self._report.requests += 1
        # How late is not checked: a store's clock that was set back makes all records expire that much later.
        if ttl < 0:
            self._find("a request record does not expire", key)
        letter = recorded[FINGERPRINT_BYTES : FINGERPRINT_BYTES + 1]
        if letter not in RECORDED_LETTERS:
            self._find("a request record holds no outcome", key)

    def _sessions(self, key: bytes, name: bytes, partition: int) -> None:
        """Checks the sessions of one user, of which ``key`` is either the rows or the index."""
        if name in self._seen:
            return
        self._seen.add(name)
        try:
            table = self._keys.sessions(name.decode())
        except UnicodeDecodeError:
            self._find("sessions of a user whose name is not UTF-8", key)
            return
        if table.partition != partition:
            self._find(f"sessions in partition {partition} that belong into {table.partition}", key)
            return
        if not self._has_types({table.rows: b"zset", table.index: b"hash", table.last_id: b"string"}):
            return
        owner, rows, index = self._read(
            [("HEXISTS", table.owner_index, name), ("EXISTS", table.rows), ("EXISTS", table.index)], at_once=True
        )
        if not owner and (rows or index):
            [newest] = self._read([("ZRANGE", table.rows, -1, -1, "WITHSCORES")])
            told = f", the newest with id {newest[1].decode()}" if newest else ""
            self._find(f"sessions of a user that does not exist{told}", key)
        self._report.sessions += self._table(table, Session)

    def _table(self, table: Table, entity: type[User | Session]) -> int:
        """Checks rows and index against each other; returns how many rows there are."""
        count, position = 0, "-inf"
        while rows := self._page(table, position):
            count += len(rows)
            position = f"({_score(rows[-1][1])}"
            self._rows(table, entity, rows)
        for entries in _batches(self._client.hscan_iter(table.index.decode(), count=_PAGE), _PAGE):
            self._entries(table, entries)
        self._last_id(table)
        return count

    def _page(self, table: Table, position: str) -> list[tuple[bytes, float]]:
        arguments = ("ZRANGE", table.rows, position, "+inf", "BYSCORE", "LIMIT", 0, _PAGE, "WITHSCORES")
        [page] = self._read([arguments])
        return list(zip(page[::2], map(float, page[1::2]), strict=True))

    def _rows(self, table: Table, entity: type[User | Session], rows: list[tuple[bytes, float]]) -> None:
        for row, score in rows:
            record = _Record.parse(row, entity)
            if isinstance(record, str):
                [still] = self._read([("ZSCORE", table.rows, row)])
                if still is not None:
                    self._find(f"row {_score(score)}: {record}", table.rows)
            else:
                for what in record.flaws(score, table):
                    self._find(f"row {_score(score)}: {what}", table.rows)
        names = {row: _name(row) for row, _ in rows}
        entries = self._read([("HGET", table.index, names[row]) for row, _ in rows])
        counts = self._read([("ZCOUNT", table.rows, score, score) for _, score in rows])
        for (row, score), entry, same in zip(rows, entries, counts, strict=True):
            if _number(entry or b"") != score or same != 1:
                self._row_again(table, row, names[row])

    def _row_again(self, table: Table, row: bytes, name: bytes) -> None:
        score, entry = self._read([("ZSCORE", table.rows, row), ("HGET", table.index, name)], at_once=True)
        if score is None:
            return  # replaced or deleted since
        if entry is None:
            self._find(f"row {_score(score)}: the index has no entry of its name", table.rows)
        elif _number(entry) != score:
            self._find(f"row {_score(score)}: the index says {_shown(entry)} for its name", table.rows)
        [same] = self._read([("ZCOUNT", table.rows, score, score)])
        if same > 1:
            self._find(f"row {_score(score)}: {same} rows have this id", table.rows)

    def _last_id(self, table: Table) -> None:
        newest, last = self._read([("ZRANGE", table.rows, "-1", "-1"), ("GET", table.last_id)], at_once=True)
        [score] = self._read([("ZSCORE", table.rows, newest[0])]) if newest else [None]
        if score is None:
            if last is None and self._has_id and not table.owner:
                self._find(f"partition {table.partition} has no last id", table.last_id)
        elif (_number(last or b"") or -1) < score:
            self._find(f"row {_score(score)}: its id is above the last one given out", table.rows)

    def _entries(self, table: Table, entries: list[tuple[bytes, bytes]]) -> None:
        rows = self._read([_row_of(table, entry) for _, entry in entries])
        for (name, entry), found in zip(entries, rows, strict=True):
            if not _is_named(found, name):
                self._entry_again(table, name, entry)

    def _entry_again(self, table: Table, name: bytes, entry: bytes) -> None:
        current, found = self._read([("HGET", table.index, name), _row_of(table, entry)], at_once=True)
        if current != entry or _is_named(found, name):
            return  # deleted, or added anew since
        what = "the row with this id has another name" if found else "there is no row with this id"
        self._find(f"index entry {_shown(entry)}: {what}", table.index)


@dataclass(frozen=True, slots=True)
class _Record:
    """A stored record, taken apart."""

    body: bytes
    name: bytes
    id: int
    owner: str

    @classmethod
    def parse(cls, row: bytes, entity: type[User | Session]) -> "_Record | str":
        """Takes a row apart, or tells why that cannot be done."""
        length_at = len(FRAME_TAG)
        length, start = try_read_varint(row, length_at)
        if not row.startswith(FRAME_TAG) or len(row) - start != length:
            return "is not framed as an element of field 1"
        try:
            message = entity.FromString(row[start:])
        except DecodeError:
            return f"cannot be decoded as a {entity.DESCRIPTOR.name}"
        name, owner = (message.session_id, message.user_id) if isinstance(message, Session) else (message.user_id, "")
        return cls(row[start:], name.encode(), message.id, owner)

    def flaws(self, score: float, table: Table) -> Iterator[str]:
        """Tells what is wrong with the record by itself."""
        if not self.body.startswith(key_field(self.name.decode()) + bytes([ID_TAG]) + varint(self.id)):
            yield "does not begin with name and id"
        if self.id != score:
            yield f"holds the id {self.id}"
        if not 0 < score <= MAX_ID or score != int(score):
            yield f"its id is not a whole number from 1 to {MAX_ID}"
        elif int(score) % MAX_PARTITIONS != table.partition:
            yield f"its id is not one of partition {table.partition}"
        if self.owner != table.owner:
            yield "belongs to another user"


def _name(row: bytes) -> bytes:
    """The name at the start of a row, as far as there is one."""
    _, start = try_read_varint(row, len(FRAME_TAG))
    length, start = try_read_varint(row, start + 1)
    return row[start : start + length]


def _is_named(rows: list[bytes], name: bytes) -> bool:
    return any(_name(row) == name for row in rows)


def _row_of(table: Table, entry: bytes) -> tuple[bytes | str, ...]:
    """The command that reads the rows which an index entry speaks of."""
    score = entry if _number(entry) is not None else b"(inf"
    return ("ZRANGE", table.rows, score, score, "BYSCORE")


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) <= _MOST_DIGITS else None


def _score(score: float) -> str:
    return f"{score:.0f}"


def _shown(entry: bytes) -> str:
    """An entry of an index, if it is the number that it ought to be."""
    return entry.decode() if _number(entry) is not None else "no number"


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
