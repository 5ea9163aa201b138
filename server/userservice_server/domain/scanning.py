"""Divides all users into parts that can be read concurrently: ranges of ids of single partitions."""

import asyncio
from itertools import pairwise

from userservice.v1.user_service_pb2 import UserScanPart
from userservice_server.domain.ports import RecordStore


def partition_numbers(store: RecordStore) -> range:
    """Returns the numbers by which callers name the partitions.

    P partitions have the numbers P to 2P - 1, because the number must also identify the layout. After a move of the
    store to another number of partitions, users are in other partitions, and a part of an earlier plan would leave out
    users.
    """
    partitions = len(store.tables.all_users())
    return range(partitions, 2 * partitions)


async def planned(store: RecordStore, parts: int) -> list[UserScanPart]:
    """Divides all users into parts: about ``parts``, but at least one for each partition with users.

    The parts of each partition are adjacent ranges, from 0 to an id that is not below the id of any present user.
    Every user that exists at the start is therefore in exactly one part while it exists: its id and its partition
    never change. Later users have larger ids in every partition, although the clocks of the partitions differ.
    """
    tables, identity = store.tables.all_users(), store.identity
    end = await store.fence()
    ranges = max(1, parts // len(tables))
    cuts = await asyncio.gather(*(store.cuts(table, ranges, identity) for table in tables))
    return [
        UserScanPart(partition=number, cursor=start, end_cursor=stop)
        for number, ends in zip(partition_numbers(store), cuts, strict=True)
        if ends
        for start, stop in pairwise((0, *(cut for cut in ends[:-1] if cut < end), end))
    ]
