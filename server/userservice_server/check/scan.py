"""Scans the keys of a store and checks each key."""

import re

from userservice.v1.session_pb2 import Session
from userservice_server.check.expiry import check_expiry
from userservice_server.check.feeds import feed_problems
from userservice_server.check.reading import PAGE, Reader, batches
from userservice_server.check.report import Report
from userservice_server.check.tables import Tables
from userservice_server.store.keys import Keys
from userservice_server.store.partitions import tags
from userservice_server.wire.idempotency import FINGERPRINT_BYTES
from userservice_server.wire.outcomes import RECORDED_LETTERS

# The kinds of keys of a partition, and their types. migration/source.py decides which kinds a migration copies.
ROLES = {
    "layout": b"hash",
    "users": b"zset",
    "user_ids": b"hash",
    "last_id": b"string",
    "store_id": b"string",
    "session_count": b"hash",
    "expiry": b"zset",
    "session_expiry": b"zset",
    "feed": b"stream",
    "emails": b"zset",
    "shared_emails": b"zset",
    "sessions": b"zset",
    "session_ids": b"hash",
    "request": b"string",
    "import": b"string",
    "import_errors": b"zset",
}
_OF_ONE = {b"sessions", b"session_ids", b"session_expiry", b"request", b"import", b"import_errors"}  # end in a name
_IMPORT_STATE = re.compile(rb"\d{1,16}( \d{1,16}){5}\n[0-9a-f]{32}")
_NO_KEY = -2  # the reply of PTTL
_OF_A_LONGER_PREFIX = re.compile(rb"[A-Za-z0-9_.:-]+:(layout$|\{[0-9.]+\}:)")  # of another service, such as PREFIX:test


class Scan:
    """Scans the keys of a store: finds keys of unknown kinds, and checks idempotency records and tables of sessions."""

    def __init__(self, reader: Reader, report: Report, keys: Keys, tables: Tables) -> None:
        self._reader = reader
        self._report = report
        self._keys = keys
        self._tables = tables
        self._partitions = {f"{{{tag}}}".encode(): number for number, tag in enumerate(tags(keys.partitions))}
        self._prefix = b""
        self._seen: set[bytes] = set()  # user_ids whose sessions were checked, because a table has two keys

    def run(self, key_prefix: str) -> None:
        """Checks all keys under ``key_prefix``."""
        self._prefix = f"{key_prefix}:".encode()
        for keys in batches(self._reader.scan(f"{key_prefix}:*"), PAGE):
            types = self._reader.read([("TYPE", key) for key in keys])
            for key, kind in zip(keys, types, strict=True):
                self._key(key, kind)

    def _key(self, key: bytes, kind: bytes) -> None:
        """Checks a key that the scan found."""
        if key == self._keys.layout or _OF_A_LONGER_PREFIX.match(key, len(self._prefix)):
            return
        place, _, rest = key.removeprefix(self._prefix).partition(b":")
        role, _, owner_or_id = rest.partition(b":")
        partition = self._partitions.get(place)
        wanted = ROLES.get(role.decode(errors="replace"))
        is_of_one = role in _OF_ONE
        if partition is None or wanted is None or is_of_one != bool(owner_or_id):
            if kind != b"none":  # deleted since the scan
                self._report.find(f"unknown key of type {kind.decode()}", key)
        elif kind not in (b"none", wanted):
            self._report.find(f"a key {role.decode()} has the type {kind.decode()} instead of {wanted.decode()}", key)
        elif role == b"request":
            self._request(key)
        elif role in (b"import", b"import_errors"):
            self._import(key, is_state=role == b"import")
        elif role == b"feed":
            self._feed(key, partition)
        elif is_of_one:
            self._sessions(key, owner_or_id, partition)

    def _import(self, key: bytes, *, is_state: bool) -> None:
        """Checks the state or the row errors of an import."""
        ttl, state = self._reader.read([("PTTL", key), ("GET", key) if is_state else ("EXISTS", key)], at_once=True)
        if ttl == _NO_KEY:
            return  # expired since the scan
        if ttl < 0:
            self._report.find("the state or the row errors of an import do not expire", key)
        if is_state and not _IMPORT_STATE.fullmatch(state):
            self._report.find("the state of an import is damaged", key)

    def _feed(self, key: bytes, partition: int) -> None:
        """Checks the feed of a partition."""
        layout = self._keys.all_users()[partition].layout
        [epoch] = self._reader.read([("HGET", layout, "feed")])
        if epoch is None and self._reader.read([("EXISTS", key)])[0]:
            self._report.find("there is a feed of changes, but the layout says that it is off", key)
        for problem in feed_problems(self._reader, key):
            self._report.find(problem, key)

    def _request(self, key: bytes) -> None:
        ttl, recorded = self._reader.read([("PTTL", key), ("GET", key)], at_once=True)
        if recorded is None:
            return
        self._report.requests += 1
        # The upper limit is not checked: if the store's clock was set back, all records expire later by this time.
        if ttl < 0:
            self._report.find("an idempotency record does not expire", key)
        letter = recorded[FINGERPRINT_BYTES : FINGERPRINT_BYTES + 1]
        if letter not in RECORDED_LETTERS:
            self._report.find("an idempotency record contains no valid outcome", key)

    def _sessions(self, key: bytes, user_id: bytes, partition: int) -> None:
        """Checks the sessions of one user, of which ``key`` is either the rows or the index."""
        if user_id in self._seen:
            return
        self._seen.add(user_id)
        try:
            table = self._keys.sessions(user_id.decode())
        except UnicodeDecodeError:
            self._report.find("sessions of a user whose user_id is not UTF-8", key)
            return
        if table.partition != partition:
            self._report.find(f"sessions are in partition {partition} but belong to partition {table.partition}", key)
            return
        types = {table.rows: b"zset", table.index: b"hash", table.last_id: b"string", table.session_expiry: b"zset"}
        if not self._reader.has_types(types):
            return
        owner, rows, index = self._reader.read(
            [("HEXISTS", table.owner_index, user_id), ("EXISTS", table.rows), ("EXISTS", table.index)], at_once=True
        )
        if not owner and (rows or index):
            [newest] = self._reader.read([("ZRANGE", table.rows, -1, -1, "WITHSCORES")])
            newest_id = f", the newest with id {newest[1].decode()}" if newest else ""
            self._report.find(f"sessions of a user that does not exist{newest_id}", key)
        self._report.sessions += self._tables.check(table, Session)
        check_expiry(self._reader, self._report, table)
