"""Checks the e-mail indexes: each user with an address is indexed under its address, and nothing else is indexed."""

from collections.abc import Iterable, Sequence

from userservice_server.check.reading import PAGE, Reader, batches
from userservice_server.check.report import Report
from userservice_server.store.keys import Keys, Table
from userservice_server.wire.emails import MEMBER_BYTES, UNICODE_VERSION, email_in, index_member, key_of_record
from userservice_server.wire.ids import MAX_ID
from userservice_server.wire.records import CorruptRecordError

_READY = b"ready"
_BOTH = 2  # keys exist
_FIELDS = ("email_index", "email_unicode")

Row = tuple[bytes, float]  # a record and its score


def check_states(reader: Reader, report: Report, keys: Keys) -> None:
    """Checks that all partitions have an e-mail index of one version of Unicode, or none has an index."""
    layouts = [keys.layout, *(table.layout for table in keys.all_users())]
    states = reader.read([("HMGET", layout, *_FIELDS) for layout in layouts])
    if len({tuple(state) for state in states}) > 1 and all(state[0] in (None, _READY) for state in states):
        report.find("the e-mail index is not complete in all partitions; run userservice reindex again", keys.layout)


def check_emails(reader: Reader, report: Report, keys: Keys) -> None:
    """Checks the indexes of all partitions; an index that is being built is not checked."""
    for table in keys.all_users():
        if not reader.has_types({table.layout: b"hash", table.rows: b"zset", table.emails: b"zset"}):
            continue
        state, version = reader.read([("HMGET", table.layout, *_FIELDS)])[0]
        if state == _READY:
            _check(reader, report, table, is_same_version=version == UNICODE_VERSION.encode())
        elif state is None and reader.read([("EXISTS", table.layout, table.emails)])[0] == _BOTH:
            report.find("there is an e-mail index, but the layout says that there is none", table.emails)


def _check(reader: Reader, report: Report, table: Table, *, is_same_version: bool) -> None:
    for page in reader.pages(table.rows):
        # The class Tables reports scores that are not ids.
        rows = [(row, float(score)) for row, score in page if 0 < float(score) <= MAX_ID]
        for row, score in _differing(reader, table, rows, is_same_version=is_same_version):
            # Read again in one step, because the user may have been changed between the reads.
            still, entry = reader.read([("ZSCORE", table.rows, row), _entry_of(table, score)], at_once=True)
            if still is not None and not _agrees(row, entry):
                what = "no entry for this user" if entry is None else "a wrong entry"
                report.find(f"row {score:.0f}: the e-mail index has {what}", table.emails)
    for members in batches((member for member, _ in reader.members(table.emails)), PAGE):
        for member in _without_user(reader, table, members):
            exists, entry = reader.read([_row_of(table, member), ("ZSCORE", table.emails, member)], at_once=True)
            if entry is not None and not exists:
                shown = int.from_bytes(member, "big") if len(member) == MEMBER_BYTES else "(not an id)"
                report.find(f"e-mail index entry {shown}: there is no user with this id", table.emails)


def _differing(reader: Reader, table: Table, rows: Sequence[Row], *, is_same_version: bool) -> Iterable[Row]:
    entries = reader.read([_entry_of(table, score) for _, score in rows])
    for (row, score), entry in zip(rows, entries, strict=True):
        try:
            if (is_same_version or email_in(row).isascii()) and not _agrees(row, entry):
                yield row, score
        except (CorruptRecordError, IndexError, UnicodeDecodeError):
            continue  # Tables reports the record


def _agrees(row: bytes, entry: bytes | float | None) -> bool:
    key = key_of_record(row)
    return (None if entry is None else float(entry)) == key


def _entry_of(table: Table, score: float) -> tuple[str, bytes, bytes]:
    return ("ZSCORE", table.emails, index_member(int(score)))


def _without_user(reader: Reader, table: Table, members: Sequence[bytes]) -> Iterable[bytes]:
    found = reader.read([_row_of(table, member) for member in members])
    return (member for member, rows in zip(members, found, strict=True) if not rows)


def _row_of(table: Table, member: bytes) -> tuple[bytes | str | int, ...]:
    number = int.from_bytes(member, "big") if len(member) == MEMBER_BYTES else -1
    return ("ZRANGE", table.rows, number, number, "BYSCORE", "LIMIT", 0, 1)
