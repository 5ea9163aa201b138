"""Checks tables of records: rows and index must agree, and no id may be above the last id of the partition."""

from userservice.v1.session_pb2 import Session
from userservice.v1.user_pb2 import User
from userservice_server.check.reading import PAGE, Reader, batches, number
from userservice_server.check.records import Record, key_in
from userservice_server.check.report import Report
from userservice_server.store.keys import Keys, Table


class Tables:
    """Checks the tables of a store.

    Args:
        reader: reads the store.
        report: receives the findings.
        has_id: whether the store has a store id; a store of the first release has none.
    """

    def __init__(self, reader: Reader, report: Report, *, has_id: bool) -> None:
        self._reader = reader
        self._report = report
        self._has_id = has_id

    def check_users(self, keys: Keys) -> None:
        """Checks the tables of users."""
        for table in keys.all_users():
            if self._reader.has_types({table.rows: b"zset", table.index: b"hash", table.last_id: b"string"}):
                self._report.users += self.check(table, User)

    def check(self, table: Table, entity: type[User | Session]) -> int:
        """Compares rows and index of a table; returns the number of rows."""
        count = 0
        for page in self._reader.pages(table.rows):
            count += len(page)
            self._rows(table, entity, [(row, float(score)) for row, score in page])
        for entries in batches(self._reader.entries(table.index), PAGE):
            self._entries(table, entries)
        self._last_id(table)
        return count

    def _rows(self, table: Table, entity: type[User | Session], rows: list[tuple[bytes, float]]) -> None:
        for row, score in rows:
            record = Record.parse(row, entity)
            if isinstance(record, str):
                [still] = self._reader.read([("ZSCORE", table.rows, row)])
                if still is not None:
                    self._report.find(f"row {_score(score)}: {record}", table.rows)
            else:
                for what in record.flaws(score, table):
                    self._report.find(f"row {_score(score)}: {what}", table.rows)
        keys = {row: key_in(row) for row, _ in rows}
        entries = self._reader.read([("HGET", table.index, keys[row]) for row, _ in rows])
        counts = self._reader.read([("ZCOUNT", table.rows, score, score) for _, score in rows])
        for (row, score), entry, same in zip(rows, entries, counts, strict=True):
            if number(entry or b"") != score or same != 1:
                self._row_again(table, row, keys[row])

    def _row_again(self, table: Table, row: bytes, key: bytes) -> None:
        score, entry = self._reader.read([("ZSCORE", table.rows, row), ("HGET", table.index, key)], at_once=True)
        if score is None:
            return  # replaced or deleted since
        if entry is None:
            self._report.find(f"row {_score(score)}: the index has no entry for its key", table.rows)
        elif number(entry) != score:
            self._report.find(f"row {_score(score)}: the index has another id for its key: {_shown(entry)}", table.rows)
        [same] = self._reader.read([("ZCOUNT", table.rows, score, score)])
        if same > 1:
            self._report.find(f"row {_score(score)}: {same} rows have this id", table.rows)

    def _last_id(self, table: Table) -> None:
        newest, last = self._reader.read([("ZRANGE", table.rows, "-1", "-1"), ("GET", table.last_id)], at_once=True)
        [score] = self._reader.read([("ZSCORE", table.rows, newest[0])]) if newest else [None]
        if score is None:
            if last is None and self._has_id and not table.owner:
                self._report.find(f"partition {table.partition} has no last id", table.last_id)
        elif (number(last or b"") or -1) < score:
            self._report.find(f"row {_score(score)}: its id is above the last id of the partition", table.rows)

    def _entries(self, table: Table, entries: list[tuple[bytes, bytes]]) -> None:
        rows = self._reader.read([_row_of(table, entry) for _, entry in entries])
        for (key, entry), found in zip(entries, rows, strict=True):
            if not _has_key(found, key):
                self._entry_again(table, key, entry)

    def _entry_again(self, table: Table, key: bytes, entry: bytes) -> None:
        current, found = self._reader.read([("HGET", table.index, key), _row_of(table, entry)], at_once=True)
        if current != entry or _has_key(found, key):
            return  # deleted, or added again since
        what = "the row with this id has another key" if found else "there is no row with this id"
        self._report.find(f"index entry {_shown(entry)}: {what}", table.index)


def _has_key(rows: list[bytes], key: bytes) -> bool:
    return any(key_in(row) == key for row in rows)


def _row_of(table: Table, entry: bytes) -> tuple[bytes | str, ...]:
    """Returns the command that reads the rows with the id in an index entry."""
    score = entry if number(entry) is not None else b"(inf"
    return ("ZRANGE", table.rows, score, score, "BYSCORE")


def _score(score: float) -> str:
    return f"{score:.0f}"


def _shown(entry: bytes) -> str:
    """Returns an index entry as text if the entry is a number, because other content may be personal data."""
    return entry.decode() if number(entry) is not None else "(not a number)"
