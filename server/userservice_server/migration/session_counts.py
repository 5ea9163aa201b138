"""Counts the sessions of a store, on both sides of a migration."""

from collections.abc import Iterator

from userservice_server.check.reading import PAGE, Reader, batches
from userservice_server.store.keys import Keys, role_of


def sessions_by_partition(reader: Reader, keys: Keys, prefix: str) -> list[int]:
    """Returns the number of sessions of each partition."""
    counts = [0] * keys.partitions
    for owners in batches(_owners(reader, prefix), PAGE):
        tables = [keys.sessions(owner) for owner in owners]
        sizes = reader.read([("ZCARD", table.rows) for table in tables])
        for table, size in zip(tables, sizes, strict=True):
            counts[table.partition] += size
    return counts


def _owners(reader: Reader, prefix: str) -> Iterator[str]:
    """Yields the user_ids of users with sessions."""
    seen: set[bytes] = set()  # SCAN may return a key more than once
    for key in reader.scan(f"{prefix}:{{*"):
        role, owner = role_of(key, prefix)
        if role == "sessions" and owner not in seen:
            seen.add(owner)
            yield owner.decode()
