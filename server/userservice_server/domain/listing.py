"""The streaming path: ranges of records, read ahead and joined into responses of bounded size."""

from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from itertools import accumulate
from types import TracebackType
from typing import Self, TypeAlias

from userservice_server.domain.records import id_field, record_id, total_size_field
from userservice_server.store.keys import Table
from userservice_server.store.redis_store import RedisStore

MAX_RESPONSE_BYTES = 1 << 20
_TRAILER_BYTES = 32  # room for next_cursor and total_size
_READ_BYTES = 1 << 20  # what one read of Redis aims at; a stream holds two reads at the most
_STREAMS_BYTES = 4 << 20  # of responses of all streams of a process, see Shares
_MIN_SHARE_BYTES = 16 << 10
_LARGEST_RECORD_BYTES = 68 << 10  # 64 KiB of metadata, and the rest
_FIRST_READ = 128  # records at the most, of a stream or a page: more would keep the first response waiting
_MAX_READ = 5000  # records: should the largest follow small ones, a read is 320 MiB, once


class Shares:
    """Divides the memory that streams may take among those that run, each as long as it is in its ``with`` block.

    A reader that does not read keeps a response in memory, which grpc cannot take back, and the reads behind it. A few
    streams have responses and reads of full size; of very many, each has smaller ones.

    Attributes:
        record_bytes: what a record had on average where one was read last: a guess for the first read of a stream.
    """

    def __init__(self, record_bytes: int = _LARGEST_RECORD_BYTES) -> None:
        self.record_bytes = record_bytes
        self._running = 0

    def __enter__(self) -> Self:
        self._running += 1
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running -= 1

    @property
    def response_bytes(self) -> int:
        """The most bytes in a response now."""
        return min(MAX_RESPONSE_BYTES, self._share)

    @property
    def read_bytes(self) -> int:
        """What a read of Redis aims at now."""
        return min(_READ_BYTES, self._share // 2)

    @property
    def _share(self) -> int:
        return max(_STREAMS_BYTES // max(self._running, 1), _MIN_SHARE_BYTES)


Page: TypeAlias = tuple[bytes, bytes]
"""An encoded response, and its field next_cursor, which is empty at the end."""


async def pages(
    store: RedisStore, table: Table, size: int, cursor: int, *, shares: Shares, read_ahead: bool
) -> AsyncGenerator[Iterator[Page]]:
    """Yields the pages of one range after the other, up to the newest record at the start.

    Those of a range need no waiting; they have to be taken before the next range is asked for. A page holds ``size``
    records, fewer at the end or where one more would exceed ``shares.response_bytes``. The last one, and only it, has
    no next_cursor; there is always at least one. Ids never change and a record keeps its place when it is replaced, so
    going through the ids upwards meets each record that stays exactly once.

    Args:
        store: where the records are.
        table: which records.
        size: the most records in one response.
        cursor: the id to start after.
        shares: how large responses and reads may be.
        read_ahead: whether to fetch the next range while this one is sent.
    """
    total = store.size(table)
    ranges = _ranges(store, table, size, cursor, shares, read_ahead=read_ahead)
    with shares:
        async with aclosing(ranges):
            waiting: list[bytes] = []
            async for records, records_bytes, at_end in ranges:
                waiting_bytes = sum(map(len, waiting)) + records_bytes
                waiting += records
                records.clear()  # what is sent is not to be kept here
                stops = _stops(waiting, waiting_bytes, size, shares.response_bytes, at_end=at_end)
                found = _pages(waiting, stops, total_size_field(await total), at_end=at_end)
                yield found
                if next(found, None) is not None:
                    raise AssertionError("the pages of a range have to be taken before the next is asked for")
                del waiting[: stops[-1] if stops else 0]


async def first_page(store: RedisStore, table: Table, size: int, cursor: int) -> bytes:
    """Returns the first of ``pages`` alone."""
    shares = Shares(_READ_BYTES // _FIRST_READ)  # most pages come with the first read
    async with aclosing(pages(store, table, size, cursor, shares=shares, read_ahead=False)) as ranges:
        async for found in ranges:
            for page, _ in found:
                return page
    raise AssertionError("there is always a page")


def _pages(records: list[bytes], stops: list[int], size_field: bytes, *, at_end: bool) -> Iterator[Page]:
    start = 0
    for stop in stops:
        cursor_field = b"" if at_end and stop == len(records) else id_field(records[stop - 1])
        yield _response(records, start, stop, cursor_field + size_field), cursor_field
        start = stop


async def _ranges(
    store: RedisStore, table: Table, size: int, cursor: int, shares: Shares, *, read_ahead: bool
) -> AsyncGenerator[tuple[list[bytes], int, bool]]:
    """Yields ranges up to the newest record at the start: records, how many bytes they have, whether it is the last."""
    # Both leave in one write and are answered in this order: whatever is added later is not waited for.
    count = max(1, min(size, _FIRST_READ, shares.read_bytes // shares.record_bytes))
    newest, read = store.newest(table), 0
    reading = store.range(table, cursor, count)
    try:
        newest_id = max(map(record_id, await newest), default=0)
        while True:
            records = await reading
            if len(records) < count or record_id(records[-1]) >= newest_id:
                while records and record_id(records[-1]) > newest_id:
                    records.pop()  # added since the start
                yield records, sum(map(len, records)), True
                return
            cursor, read, records_bytes = record_id(records[-1]), read + count, sum(map(len, records))
            shares.record_bytes = records_bytes // count + 1
            count = _next_count(size, read, shares.record_bytes, shares.read_bytes)
            if read_ahead:
                reading = store.range(table, cursor, count)
            yield records, records_bytes, False
            if not read_ahead:
                reading = store.range(table, cursor, count)
    finally:
        reading.cancel()  # its reply is read in its turn and dropped
        del newest, reading  # a failed future keeps its exception, and the exception this frame: a reference cycle


def _stops(records: list[bytes], records_bytes: int, size: int, most_bytes: int, *, at_end: bool) -> list[int]:
    """Positions after the last record of each response that can be made of ``records``.

    What is left over stays for the next range, unless there is none: a response is full when it has ``size`` records,
    or when one more would exceed ``most_bytes``. At the end there is one, be it empty.
    """
    most_bytes -= _TRAILER_BYTES
    if records_bytes <= most_bytes:  # as almost always; no need to know where each record ends
        stops = list(range(size, len(records) + 1, size))
    else:
        stops, offsets, start = [], list(accumulate(map(len, records), initial=0)), 0
        while True:
            fitting = bisect_right(offsets, offsets[start] + most_bytes) - 1
            stop = min(start + size, max(fitting, start + 1))
            if stop > len(records) or (stop == len(records) and stop - start < size):
                break
            stops.append(stop)
            start = stop
    if at_end and (not stops or stops[-1] < len(records)):
        stops.append(len(records))
    return stops


def _response(records: list[bytes], start: int, stop: int, other_fields: bytes) -> bytes:
    """Joins records into a response, and takes them out of the list: not kept twice while the reader takes its time."""
    parts = records[start:stop]
    records[start:stop] = [b""] * len(parts)
    parts.append(other_fields)
    return b"".join(parts)


def _next_count(size: int, read: int, average_bytes: int, read_bytes: int) -> int:
    """How many records to read next: by the size of those just read, and in whole responses where that is possible.

    Args:
        size: records in a response.
        read: records read so far.
        average_bytes: of a record in the last range.
        read_bytes: what a read aims at.
    """
    count = max(1, min(read_bytes // average_bytes, _MAX_READ))
    return count if count <= size else count // size * size - read % size
