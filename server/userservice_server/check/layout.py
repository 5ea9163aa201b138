"""Checks the layout of a store and its store id."""

from userservice_server.check.reading import Reader, number
from userservice_server.check.report import Report
from userservice_server.config import ConfigError
from userservice_server.store.keys import LAYOUT_VERSIONS, MAINTAINED_LAYOUT_VERSION, Keys
from userservice_server.store.partitions import PARTITION_COUNTS

_FEED_FIELDS = (b"feed", b"feed_entries", b"feed_seconds")
_INDEX_FIELDS = (b"email_index", b"email_unicode", b"email_done")
_OF_MAINTAINED = ((b"feed", "the feed of changes is on"), (b"email_index", "there is an e-mail index"))
_OWN_FIELDS = {b"version", b"partitions", b"store_id", b"lowest_id", b"creating", b"moved"}
_LAYOUT_FIELDS = {*_OWN_FIELDS, *_FEED_FIELDS, *_INDEX_FIELDS}


def partitions_of(reader: Reader, report: Report, prefix: str) -> int:
    """Checks the layout; returns the number of partitions."""
    key = f"{prefix}:layout".encode()
    [kind] = reader.read([("TYPE", key)])
    if kind == b"none":
        if at_least := partitions_without_layout(reader, prefix):
            report.find("the layout is missing", key)
            return at_least
        raise ConfigError(f"there is no store under the key prefix {prefix}")
    layout = reader.read([("HGETALL", key)])[0] if kind == b"hash" else {}
    version, partitions = (number(layout.get(name, b"")) for name in (b"version", b"partitions"))
    if version not in LAYOUT_VERSIONS:
        known = " and ".join(map(str, LAYOUT_VERSIONS))
        raise ConfigError(f"the store has an unknown layout version; the supported versions are {known}")
    if partitions not in PARTITION_COUNTS:
        raise ConfigError("the layout's number of partitions must be 1, 16 or 64")
    if b"creating" in layout:
        report.find("the store is being created, or its creation was interrupted", key)
    if b"moved" in layout:
        report.find("the store was marked by userservice migrate; servers reject its writes", key)
    for field, what in _OF_MAINTAINED:
        if field in layout and version != MAINTAINED_LAYOUT_VERSION:
            report.find(f"{what}, but the layout version is not {MAINTAINED_LAYOUT_VERSION}", key)
    if extra := len(layout.keys() - _LAYOUT_FIELDS):
        report.find(f"the layout has {extra} unknown fields", key)
    return partitions


def partitions_without_layout(reader: Reader, prefix: str) -> int:
    """Returns the least number of partitions for which the store has keys; 0 if it has none."""
    for count in PARTITION_COUNTS:
        tables = Keys(prefix, count).all_users()
        if any(reader.read([("EXISTS", table.store_id, table.rows, table.index, table.last_id) for table in tables])):
            return count
    return 0


def check_store_ids(reader: Reader, report: Report, keys: Keys) -> bool:
    """Checks that layout and partitions have the same store id; returns whether the store has a store id.

    A store of the first release has no store id.
    """
    tables = keys.all_users()
    layouts = [table.layout for table in tables if table.layout != keys.layout]
    places = {table.store_id: b"string" for table in tables} | dict.fromkeys((keys.layout, *layouts), b"hash")
    if not reader.has_types(places):
        return False
    # In one transaction, because a service may write the store id at the same time.
    reading = [("HGET", keys.layout, "store_id"), *(("GET", table.store_id) for table in tables)]
    expected, *ids = reader.read([*reading, *(("HGET", layout, "store_id") for layout in layouts)], at_once=True)
    ids, of_layouts = ids[: len(tables)], ids[len(tables) :]
    if expected is None and not any(ids):
        return False
    if expected is None and b"none" not in reader.read([("TYPE", keys.layout)]):
        report.find("the layout has no store id", keys.layout)
    expected = expected or next(filter(None, ids))
    for table, store_id in zip(tables, ids, strict=True):
        if store_id is None:
            report.find(f"partition {table.partition} has no store id", table.store_id)
        elif store_id != expected:
            report.find(f"partition {table.partition} has the store id of another store", table.store_id)
    for partition, (layout, store_id) in enumerate(zip(layouts, of_layouts, strict=True)):
        if store_id != expected:
            report.find(f"the layout of partition {partition} is missing or has another store id", layout)
    return True
