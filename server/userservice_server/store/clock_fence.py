"""The clock fence of a store with several partitions.

The clocks of the servers that assign ids differ. The fence raises the last ids of all partitions to the newest id, so
that all ids that are assigned later are larger than all ids that exist now.
"""

import asyncio
from collections.abc import Sequence

from userservice_server.errors import StoreChangedError
from userservice_server.store import scripts
from userservice_server.store.connection import Send
from userservice_server.store.keys import Table
from userservice_server.store.running import run
from userservice_server.wire.ids import PARTITIONS
from userservice_server.wire.outcomes import Code


async def raise_last_ids(tables: Sequence[Table], store_id: bytes, reads: list[Send], writes: list[Send]) -> int:
    """Raises the last ids of all partitions; writes only to partitions whose last id is smaller.

    Args:
        tables: the tables of users of all partitions.
        store_id: the expected store id.
        reads: sends a command that reads, by partition.
        writes: the same for writes.

    Returns:
        The largest of the last ids.

    Raises:
        StoreChangedError: the store was emptied, replaced or damaged.
    """
    replies = await asyncio.gather(*(reads[table.partition]("GET", table.last_id) for table in tables))
    if None in replies:
        raise StoreChangedError.during_read()
    last_ids = list(map(int, replies))
    newest = max(last_ids)
    raising = [
        run(
            writes[table.partition],
            scripts.RAISE_LAST_ID,
            (table.store_id, table.last_id),
            (store_id, newest, table.partition),
        )
        for table, last_id in zip(tables, last_ids, strict=True)
        if last_id < newest // PARTITIONS * PARTITIONS + table.partition
    ]
    if Code.STORE_CHANGED.value in await asyncio.gather(*raising):
        raise StoreChangedError.during_read()
    return newest
