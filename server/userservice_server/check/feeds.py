"""Checks the feeds of changes: they are on in all partitions or in none, and their entries are complete."""

from collections.abc import Iterator

from userservice_server.check.reading import Reader
from userservice_server.check.report import Report
from userservice_server.store.keys import Keys
from userservice_server.wire.changes import Entry, Position

_PAGE = 1000


def check_feeds(reader: Reader, report: Report, keys: Keys) -> None:
    """Checks that the feed of changes is on in all partitions, or in none."""
    tables = keys.all_users()
    epochs = reader.read([("HGET", layout, "feed") for layout in (keys.layout, *(table.layout for table in tables))])
    if len(set(epochs)) > 1:
        report.find("the feed of changes is not on in all partitions; run userservice feed on again", keys.layout)
    elif epochs[0] is not None:
        for table, exists in zip(tables, reader.read([("EXISTS", table.feed) for table in tables]), strict=True):
            if not exists:
                report.find(f"the feed of changes of partition {table.partition} is missing", table.feed)


def feed_problems(reader: Reader, key: bytes) -> Iterator[str]:
    """Yields what is wrong with the entries of a feed; at most one problem of each kind."""
    start, number = "-", None
    damaged = gaps = 0
    while True:
        [entries] = reader.read([("XRANGE", key, start, "+", "COUNT", _PAGE)])
        for entry_id, fields in entries:
            position = Position.parse(entry_id)
            if number is not None and position.number != number + 1:
                gaps += 1
            number = position.number
            damaged += not _is_entry(position, fields)
        if len(entries) < _PAGE:
            break
        start = f"({entries[-1][0].decode()}"
    if gaps:
        yield f"the feed of changes has {gaps} gaps"
    if damaged:
        yield f"the feed of changes has {damaged} damaged entries"


def _is_entry(position: Position, fields: "dict[bytes, bytes]") -> bool:
    value = fields.get(b"c")
    if value is None:
        return False
    try:
        Entry.parse(position, value)
    except ValueError:
        return False
    return True
