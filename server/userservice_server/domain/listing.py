"""The streaming path: ranges of records, read ahead and joined into responses of bounded size."""

from bisect import bisect_right
from collections.abc import AsyncGenerator
from itertools import accumulate

from userservice_server.domain.records import listing, record_id
from userservice_server.store.keys import Table
from userservice_server.store.redis_store import RedisStore

MAX_RESPONSE_BYTES = 1 << 20
_TRAILER_BYTES = 32  # room for next_cursor and total_size
_READ_BYTES = 256 << 10  # what one read of Redis aims at; a stream holds two reads at the most
_FIRST_READ = 128  # records, as long as their size is not known
_MAX_READ = 1024  # records: should the largest follow small ones, a read is 64 MiB, once


async def pages(
    store: RedisStore, table: Table, size: int, cursor: int, *, read_ahead: bool
) -> AsyncGenerator[tuple[bytes, int]]:
    """Yields encoded responses, each with its next_cursor, up to the newest record at the start.

    A response holds ``size`` records, fewer at the end or where one more would exceed MAX_RESPONSE_BYTES. The last
    one, and only it, has a next_cursor of 0; there is always at least one. Ids never change and a record keeps its
    place when it is replaced, so going through the ids upwards meets each record that stays exactly once.

    Args:
        store: where the records are.
        table: which records.
        size: the most records in one response.
        cursor: the id to start after.
        read_ahead: whether to fetch the next range while the second half of this one is sent. Not earlier: a reader
            that takes its time should not keep more than it needs in memory.
    """
    # The three leave in one write and are answered in this order: whatever is added later is not waited for.
    newest, total, count = store.newest(table), store.size(table), min(size, _FIRST_READ)
    reading = store.range(table, cursor, count)
    try:
        newest_id = max(map(record_id, await newest), default=0)
        total_size = await total
        waiting: list[bytes] = []
        while True:
            records = await reading
            at_end = len(records) < count or record_id(records[-1]) >= newest_id
            while records and record_id(records[-1]) > newest_id:
                records.pop()  # added since the start
            waiting += records
            offsets = list(accumulate(map(len, waiting), initial=0))
            if records:
                cursor = record_id(records[-1])
            count = _next_count(size, len(waiting), offsets[-1])
            ahead, start = False, 0
            read_from = offsets[-1] - _READ_BYTES // 2
            while True:
                stop = _end_of_response(offsets, start, size)
                if stop == len(waiting) and stop - start < size and not at_end:
                    break  # neither the count nor the bytes are full
                is_last = at_end and stop == len(waiting)
                next_cursor = 0 if is_last else record_id(waiting[stop - 1])
                if read_ahead and not at_end and not ahead and offsets[stop] >= read_from:
                    reading, ahead = store.range(table, cursor, count), True
                response = listing(b"".join(waiting[start:stop]), next_cursor, total_size)
                waiting[start:stop] = [b""] * (stop - start)  # not kept twice while the reader takes its time
                yield response, next_cursor
                if is_last:
                    return
                start = stop
            del waiting[:start]
            if not ahead:
                reading = store.range(table, cursor, count)
    finally:
        reading.cancel()  # its reply is read in its turn and dropped


def _end_of_response(offsets: list[int], start: int, size: int) -> int:
    """Position after the last record of the response that begins at ``start``: at least one, if there is one."""
    fitting = bisect_right(offsets, offsets[start] + MAX_RESPONSE_BYTES - _TRAILER_BYTES) - 1
    return min(start + size, max(fitting, start + 1), len(offsets) - 1)


def _next_count(size: int, waiting: int, waiting_bytes: int) -> int:
    """How many records to read next: by the size of those just read, and in whole responses where that is possible."""
    average = waiting_bytes // waiting + 1 if waiting else _READ_BYTES // _FIRST_READ
    count = max(1, min(_READ_BYTES // average, _MAX_READ))
    if count <= size:
        return count
    return count // size * size - waiting % size
