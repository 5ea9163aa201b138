"""The streaming path: ranges of records, read ahead and joined into responses of bounded size."""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from itertools import accumulate
from typing import TypeAlias

from userservice_server.domain.ports import RecordStore, Table
from userservice_server.domain.stream_memory import MAX_READ, Plan, Read, ReadLimit, StreamMemory
from userservice_server.wire.records import id_field, record_id, total_size_field

_TRAILER_BYTES = 32  # room for next_cursor and total_size
_FIRST_READ = 128  # records at the most, of a stream or a page: more would keep the first response waiting
_GROWTH = 2  # a read has at most so many times the records of the one before it, for the next ones may be larger

Page: TypeAlias = tuple[bytes, bytes]
"""An encoded response, and its field next_cursor, which is empty at the end."""


async def pages(
    store: RecordStore, table: Table, size: int, cursor: int, reads: ReadLimit, memory: StreamMemory
) -> AsyncGenerator[Iterator[Page]]:
    """Yields the pages of one range after the other, up to the newest record at the start.

    Those of a range need no waiting; they have to be taken before the next range is asked for. A page holds ``size``
    records, fewer at the end or where one more would exceed ``memory.response_bytes``. The last one, and only it, has
    no next_cursor; there is always at least one. Ids never change and a record keeps its place when it is replaced, so
    going through the ids upwards meets each record that stays exactly once.

    Args:
        store: where the records are.
        table: which records.
        size: the most records in one response.
        cursor: the id to start after.
        reads: starts the reads.
        memory: how large responses and reads may be.
    """
    total = store.size(table)
    ranges = _ranges(_Reader(store, table, size, cursor, reads, memory))
    with memory:
        async with aclosing(ranges):
            waiting: list[bytes] = []
            async for records, records_bytes, at_end in ranges:
                waiting_bytes = sum(map(len, waiting)) + records_bytes
                waiting += records
                records.clear()  # what is sent is not to be kept here
                stops = _stops(waiting, waiting_bytes, size, memory.response_bytes, at_end=at_end)
                found = _pages(waiting, stops, total_size_field(await total), at_end=at_end)
                yield found
                if next(found, None) is not None:
                    raise AssertionError("the pages of a range have to be taken before the next is asked for")
                del waiting[: stops[-1] if stops else 0]


async def first_page(store: RecordStore, table: Table, size: int, cursor: int, reads: ReadLimit) -> bytes:
    """Returns the first of ``pages`` alone."""
    async with reads.pages, aclosing(pages(store, table, size, cursor, reads, StreamMemory())) as ranges:
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


class _Reader:
    """The reads of one list, each after the last record of the one before it.

    Attributes:
        newest: the newest record at the start of the list, as a list of one or none; there once a read has come back.
    """

    newest: "asyncio.Future[list[bytes]] | None"

    def __init__(
        self, store: RecordStore, table: Table, size: int, cursor: int, reads: ReadLimit, memory: StreamMemory
    ) -> None:
        self.newest = None
        self._store = store
        self._table = table
        self._identity = store.identity
        self._size = size
        self._cursor = cursor
        self._is_resumed = cursor > 0
        self._reads = reads
        self._memory = memory
        self._read = 0
        self._most = min(size, _FIRST_READ)
        self._average = 0  # bytes of a record in the last read; 0 before the first

    def start(self) -> "asyncio.Future[Read]":
        """Starts the next read."""
        return self._reads.start(self._plan, self._send)

    def _plan(self) -> Plan:
        most_bytes, average = self._memory.read_bytes, self._average or self._reads.record_bytes
        count = _next_count(self._size, self._read, average, most_bytes, self._most)
        # Half as many bytes again are kept, because the sizes of records vary.
        return Plan(count, min(count * average, most_bytes), most_bytes * 3 // 2)

    def _send(self, count: int) -> "asyncio.Future[list[bytes]]":
        if self.newest is None:
            # Both leave in one write and are answered in this order: whatever is added later is not waited for.
            self.newest = self._store.newest(self._table)
        return self._store.range(self._table, self._cursor, count, self._identity, is_resumed=self._is_resumed)

    def go_on(self, records: list[bytes], records_bytes: int) -> None:
        """Makes the next read begin behind these records."""
        self._cursor = record_id(records[-1])
        self._is_resumed = False
        self._read += len(records)
        self._most = _GROWTH * len(records)
        self._average = records_bytes // len(records) + 1

    @property
    def ahead(self) -> bool:
        """Whether to read the next range while this one is sent: not where a single record exceeds the share."""
        return self._average <= self._memory.read_bytes


async def _ranges(reader: _Reader) -> AsyncGenerator[tuple[list[bytes], int, bool]]:
    """Yields ranges up to the newest record at the start: records, how many bytes they have, whether it is the last."""
    reading: asyncio.Future[Read] | None = reader.start()
    newest_id = None
    try:
        while True:
            records, records_bytes, is_last = await (reading or reader.start())
            if newest_id is None and reader.newest is not None:
                newest_id = max(map(record_id, await reader.newest), default=0)
            if is_last or record_id(records[-1]) >= (newest_id or 0):
                while records and record_id(records[-1]) > (newest_id or 0):
                    records.pop()  # added since the start
                yield records, sum(map(len, records)), True
                return
            reader.go_on(records, records_bytes)
            reading = reader.start() if reader.ahead else None
            yield records, records_bytes, False
    finally:
        if reading is not None:
            reading.cancel()  # its reply is read in its turn and dropped
        del reader, reading  # a failed future keeps its exception, and the exception this frame: a reference cycle


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
            is_full = stop - start == size or offsets[min(stop, len(records))] - offsets[start] >= most_bytes
            if stop > len(records) or (stop == len(records) and not is_full):
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


def _next_count(size: int, read: int, average_bytes: int, read_bytes: int, most: int) -> int:
    """How many records to read next: by the size of those just read, and in whole responses where that is possible.

    Args:
        size: records in a response.
        read: records read so far.
        average_bytes: of a record in the last range.
        read_bytes: what a read aims at.
        most: records at the most.
    """
    count = max(1, min(read_bytes // average_bytes, most, MAX_READ))
    return count if count <= size else count // size * size - read % size
