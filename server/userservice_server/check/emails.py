"""Checks the e-mail indexes: each user with an address is indexed under its address, and nothing else is indexed."""

from collections.abc import Iterable, Sequence

from userservice_server.check.reading import NO_NUMBER, PAGE, Reader, batches, number_in_score
from userservice_server.check.report import Report
from userservice_server.store.keys import COMPLETE, FILLING, Keys, Table
from userservice_server.wire.emails import (
    MEMBER_BYTES,
    SHARED,
    UNICODE_VERSION,
    email_in,
    index_member,
    key_of_record,
)
from userservice_server.wire.records import CorruptRecordError

_BOTH = 2  # keys exist
_SEVERAL = 2  # the smallest number of users of a shared key
_FIELDS = ("email_index", "email_unicode")

Row = tuple[bytes, float]  # a record and its score
Command = tuple[bytes | str | int, ...]


def check_states(reader: Reader, report: Report, keys: Keys) -> None:
    """Checks that all partitions have an e-mail index of one version of Unicode, or none has an index."""
    layouts = [keys.layout, *(table.layout for table in keys.all_users())]
    states = reader.read([("HMGET", layout, *_FIELDS) for layout in layouts])
    if len({tuple(state) for state in states}) > 1 and all(state[0] in (None, COMPLETE) for state in states):
        report.find("the e-mail index is not complete in all partitions; run userservice reindex again", keys.layout)


def check_emails(reader: Reader, report: Report, keys: Keys) -> None:
    """Checks the indexes of all partitions; an index that is being built is not checked."""
    for table in keys.all_users():
        types = {table.layout: b"hash", table.rows: b"zset", table.emails: b"zset", table.shared_emails: b"zset"}
        if not reader.has_types(types):
            continue
        state, version = reader.read([("HMGET", table.layout, *_FIELDS)])[0]
        if state == COMPLETE:
            _check_users(reader, report, table, is_same_version=version == UNICODE_VERSION.encode())
            _check_keys(reader, report, table)
            _check_shared(reader, report, table)
        elif state is None and reader.read([("EXISTS", table.layout, table.emails)])[0] == _BOTH:
            report.find("there is an e-mail index, but the layout says that there is none", table.emails)
        elif state not in (None, FILLING):
            report.find("the e-mail index has an earlier form; run userservice reindex", table.layout)


def _check_users(reader: Reader, report: Report, table: Table, *, is_same_version: bool) -> None:
    """Checks that each user with an address is indexed under its key, and under no other key."""
    for page in reader.pages(table.rows):
        # The class Tables reports scores that are not ids.
        rows = [(row, float(score)) for row, score in page if number_in_score(score) > 0]
        for row, score in _differing(reader, table, rows, is_same_version=is_same_version):
            # Read again in one step, because the user may have been changed between the reads.
            commands = [("ZSCORE", table.rows, row), *_entries_of(table, score)]
            still, *entries = reader.read(commands, at_once=True)
            keys = _keys_in(*entries)
            if still is not None and keys != _keys_of(row):
                what = "a wrong entry" if keys else "no entry for this user"
                report.find(f"row {score:.0f}: the e-mail index has {what}", table.emails)


def _differing(reader: Reader, table: Table, rows: Sequence[Row], *, is_same_version: bool) -> Iterable[Row]:
    entries = reader.read([command for _, score in rows for command in _entries_of(table, score)])
    for (row, score), members, shared in zip(rows, entries[::2], entries[1::2], strict=True):
        try:
            if (is_same_version or email_in(row).isascii()) and _keys_in(members, shared) != _keys_of(row):
                yield row, score
        except (CorruptRecordError, IndexError, UnicodeDecodeError):
            continue  # Tables reports the record


def _entries_of(table: Table, score: float) -> tuple[Command, Command]:
    """Returns the commands that read all keys under which a user is indexed."""
    own = number_in_score(score)
    return ("ZRANGE", table.emails, own, own, "BYSCORE"), ("ZSCORE", table.shared_emails, index_member(own))


def _keys_in(members: Sequence[bytes], shared: bytes | float | None) -> list[int]:
    return [*map(_number, members), *([] if shared is None else [number_in_score(shared)])]


def _keys_of(row: bytes) -> list[int]:
    key = key_of_record(row)
    return [] if key is None else [key]


def _check_keys(reader: Reader, report: Report, table: Table) -> None:
    """Checks that the user of each key exists, and that each key that is marked as shared has several users."""
    for entries in batches(reader.members(table.emails), PAGE):
        found = reader.read([_users_of(table, member, number_in_score(score)) for member, score in entries])
        for (member, score), users in zip(entries, found, strict=True):
            if len(users) >= _least_users(score):
                continue
            again = [("ZSCORE", table.emails, member), _users_of(table, member, number_in_score(score))]
            still, now = reader.read(again, at_once=True)
            if still is None or float(still) != score or len(now) >= _least_users(score):
                continue
            if score == SHARED:
                report.find("a key of the e-mail index is marked as shared, but has fewer than two users", table.emails)
            else:
                report.find(f"e-mail index entry {score:.0f}: there is no user with this id", table.emails)


def _users_of(table: Table, member: bytes, score: int) -> Command:
    """Returns the command that reads the first two users of a key."""
    if score != SHARED:
        return ("ZRANGE", table.rows, score, score, "BYSCORE", "LIMIT", 0, 1)
    key = _number(member)
    return ("ZRANGE", table.shared_emails, key, key, "BYSCORE", "LIMIT", 0, _SEVERAL)


def _least_users(score: float) -> int:
    return _SEVERAL if score == SHARED else 1


def _check_shared(reader: Reader, report: Report, table: Table) -> None:
    """Checks that each user of a shared key exists, and that its key is marked as shared."""
    for entries in batches(reader.members(table.shared_emails), PAGE):
        found = iter(reader.read([command for entry in entries for command in _user_and_mark(table, *entry)]))
        for (member, score), is_user, mark in zip(entries, found, found, strict=True):
            if is_user and _is_shared(mark):
                continue
            again = [("ZSCORE", table.shared_emails, member), *_user_and_mark(table, member, score)]
            still, user, mark_now = reader.read(again, at_once=True)
            if still is None or float(still) != score:
                continue
            shown = _number(member) if len(member) == MEMBER_BYTES else "(not an id)"
            if not user:
                report.find(f"e-mail index entry {shown}: there is no user with this id", table.shared_emails)
            elif not _is_shared(mark_now):
                report.find(f"e-mail index entry {shown}: its key is not marked as shared", table.shared_emails)


def _is_shared(mark: bytes | float | None) -> bool:
    return mark is not None and float(mark) == SHARED


def _user_and_mark(table: Table, member: bytes, score: float) -> tuple[Command, Command]:
    """Returns the commands that read the user of an entry of a shared key, and the mark of the key."""
    own = _number(member)
    user: Command = ("ZRANGE", table.rows, own, own, "BYSCORE", "LIMIT", 0, 1)
    return user, ("ZSCORE", table.emails, _member_of(number_in_score(score)))


def _member_of(number: int) -> bytes:
    return b"" if number == NO_NUMBER else index_member(number)


def _number(member: bytes) -> int:
    return int.from_bytes(member, "big") if len(member) == MEMBER_BYTES else NO_NUMBER
