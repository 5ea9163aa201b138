"""Lists records: reads ranges of records ahead from the store, and joins them into responses of bounded size."""

import asyncio
import math
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import accumulate
from time import perf_counter
from typing import TypeAlias

from userservice_server.domain.merging import Source
from userservice_server.domain.ports import RecordStore
from userservice_server.domain.stream_memory import MAX_READ, Plan, Read, ReadLimit, StreamMemory
from userservice_server.wire.projection import Cut
from userservice_server.wire.records import id_field, record_id, total_size_field

_TRAILER_BYTES = 32  # room for next_cursor and total_size
_FIRST_READ = 128  # maximum records in the first read of a list; more would delay the first response
_GROWTH = 2  # a read has at most twice the records of the previous one, because later records may be larger
_MOST_READ_BYTES = 16 << 20  # stored bytes for one response: with a view, a small response may need many of them
_LONGEST_TURN = 0.001  # seconds that a filter may block the event loop, apart from its last step
_MOST_COUNTED_BYTES = 64 << 20  # stored bytes that one count reads


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list contains.

    Attributes:
        cut: returns the records or views to send, given the records that were read; may leave out records. None: the
            list contains all records.
        total_size: number of records of the list, without records that ``cut`` leaves out; 0 if the number is unknown.
            None: number of all records.
        step: maximum number of records that ``cut`` gets at once; other calls run between two steps if the steps take
            longer than a millisecond.
    """

    cut: Cut | None = None
    total_size: int | None = None
    step: int = MAX_READ

    async def select(self, records: list[bytes]) -> list[bytes]:
        """Returns what to send of ``records``."""
        if self.cut is None:
            return records
        if len(records) <= self.step:
            return self.cut(records)
        selected: list[bytes] = []
        began = perf_counter()
        for start in range(0, len(records), self.step):
            selected += self.cut(records[start : start + self.step])
            if perf_counter() - began > _LONGEST_TURN:
                await asyncio.sleep(0)
                began = perf_counter()
        return selected


EVERYTHING = Selection()

Page: TypeAlias = tuple[bytes, bytes, int]
"""An encoded response, its field next_cursor, which is empty at the end, and the number of its records."""


async def pages(
    store: RecordStore,
    source: Source,
    size: int,
    cursor: int,
    reads: ReadLimit,
    memory: StreamMemory,
    selection: Selection = EVERYTHING,
    *,
    is_single: bool = False,
) -> AsyncGenerator[Iterator[Page]]:
    """Yields an iterator over pages for each range that is read, up to the record that was the last one at the start.

    The pages of a range are made without waiting. The caller must exhaust them before it requests the next range. A
    page contains ``size`` records, or fewer, perhaps none, if another record would exceed ``memory.response_bytes``, if
    16 MiB of records were read for the page, or if it is the last page. Only the last page has no next_cursor, and a
    list always has at least one page. If the list cannot have an end (see ``Source``), its last page has a next_cursor
    too, and the reason is raised after this page.

    Reading in the order of the ids returns each record that exists throughout exactly once, because ids never change
    and a replaced record keeps its id.

    Args:
        store: the store to read.
        source: the records to list; it serves one list only.
        size: maximum number of records in a response.
        cursor: the list starts after this id.
        reads: schedules the reads.
        memory: limits the size of responses and reads.
        selection: the records and fields to return.
        is_single: whether the caller needs only the first page; nothing is then read for later pages.
    """
    total = source.size() if selection.total_size is None else None
    # If records are left out, it is not known how many must be read for a page.
    needed = size if is_single and selection.total_size is None else math.inf
    ranges = _ranges(_Reader(store, source, size, cursor, reads, memory, needed))
    with memory:
        async with aclosing(ranges):
            waiting: list[bytes] = []
            read_bytes = 0  # for the records that wait
            examined = b""  # the id of the last record that was read after the last page; empty: none was read
            async for records, records_bytes, at_end in ranges:
                read_bytes += records_bytes
                examined = id_field(records[-1]) if records else examined
                waiting_bytes = sum(map(len, waiting))
                if selection.cut is not None:
                    records = await selection.select(records)  # noqa: PLW2901
                    records_bytes = sum(map(len, records))  # noqa: PLW2901
                waiting += records
                records.clear()  # sent records must not stay in memory
                closes = at_end or read_bytes >= _MOST_READ_BYTES
                stops = _stops(waiting, waiting_bytes + records_bytes, size, memory.response_bytes, closes=closes)
                if stops:
                    read_bytes = 0
                is_final = at_end and source.fence_failure is None
                if not is_final and not examined:
                    stops.clear()  # nothing was read, so there is no cursor to continue from
                size_field = total_size_field(selection.total_size or 0 if total is None else await total)
                found = _pages(waiting, stops, size_field, b"" if is_final else examined)
                yield found
                if next(found, None) is not None:
                    raise AssertionError("the pages of a range must be exhausted before the next range is requested")
                if stops and stops[-1] == len(waiting):
                    examined = b""
                del waiting[: stops[-1] if stops else 0]
            if source.fence_failure is not None:
                raise source.fence_failure


async def first_page(
    store: RecordStore, source: Source, size: int, cursor: int, reads: ReadLimit, selection: Selection = EVERYTHING
) -> Page:
    """Returns the first page that ``pages`` would yield."""
    reading = pages(store, source, size, cursor, reads, StreamMemory(), selection, is_single=True)
    async with reads.pages, aclosing(reading) as ranges:
        async for found in ranges:
            for page in found:
                return page
    raise AssertionError("a list has at least one page")


async def count_matching(
    store: RecordStore, source: Source, cursor: int, reads: ReadLimit, selection: Selection, most: int
) -> tuple[int, bytes]:
    """Counts the selected records among at most ``most`` records after the cursor, or 64 MiB of records.

    Returns:
        The number, and the encoded next_cursor, which is empty at the end of the list.
    """
    count = examined = examined_bytes = 0
    ranges = _ranges(_Reader(store, source, MAX_READ, cursor, reads, StreamMemory()))
    async with reads.pages, aclosing(ranges):
        async for records, records_bytes, at_end in ranges:
            is_cut_short = len(records) > most - examined
            del records[most - examined :]
            count += len(await selection.select(records))
            examined += len(records)
            examined_bytes += records_bytes
            if at_end and not is_cut_short:
                return count, b""
            if examined == most or examined_bytes >= _MOST_COUNTED_BYTES:
                return count, id_field(records[-1])
    raise AssertionError("the last range ends the list")


def _pages(records: list[bytes], stops: list[int], size_field: bytes, last_cursor: bytes) -> Iterator[Page]:
    """Yields the pages that end at ``stops``.

    The page that contains the last of the records has ``last_cursor``: the id of the last record that was read, which
    may have been left out, or nothing at the end of the list.
    """
    start = 0
    for stop in stops:
        next_cursor = last_cursor if stop == len(records) else id_field(records[stop - 1])
        yield _response(records, start, stop, next_cursor + size_field), next_cursor, stop - start
        start = stop


class _Reader:
    """Reads one list from the store; each read starts after the last record of the previous read.

    Args:
        store, source, size, cursor, reads, memory: see ``pages``.
        needed: number of records after which nothing is read ahead.

    Attributes:
        last: the last record of the list at its start, as a list of one or no record; None before the first read.
        descending: whether the newest records come first.
    """

    last: "asyncio.Future[list[bytes]] | None"

    def __init__(
        self,
        store: RecordStore,
        source: Source,
        size: int,
        cursor: int,
        reads: ReadLimit,
        memory: StreamMemory,
        needed: float = math.inf,
    ) -> None:
        self.last = None
        self.descending = source.descending
        self._source = source
        self._identity = store.identity
        self._size = size
        self._cursor = cursor
        self._is_resumed = cursor > 0
        self._reads = reads
        self._memory = memory
        self._needed = needed
        self._read = 0
        self._most = min(size, _FIRST_READ)
        self._average = 0  # bytes per record in the last read; 0 before the first read

    def start(self) -> "asyncio.Future[Read]":
        """Starts the next read."""
        return self._reads.start(self._plan, self._send)

    def _plan(self) -> Plan:
        most_bytes, average = self._memory.read_bytes, self._average or self._reads.record_bytes
        count = _next_count(self._size, self._read, average, most_bytes, self._most)
        # A reply may exceed its plan by half before records are dropped, because the sizes of records vary.
        return Plan(count, min(count * average, most_bytes), most_bytes * 3 // 2)

    def _send(self, count: int) -> "asyncio.Future[list[bytes]]":
        if self.last is None:
            # The store executes both commands in this order, so records that are added later do not prolong the list.
            self.last = self._source.last()
        return self._source.range(self._cursor, count, self._identity, is_resumed=self._is_resumed)

    def is_at_end(self, record: bytes, last_id: int) -> bool:
        """Returns whether the list ends with this record or before it."""
        return record_id(record) <= last_id if self.descending else record_id(record) >= last_id

    def last_id(self, records: list[bytes]) -> int:
        """Returns the last id of the list, given the last record of each of its tables."""
        return (min if self.descending else max)(map(record_id, records), default=0)

    def advance(self, records: list[bytes], records_bytes: int) -> None:
        """Makes the next read start after these records."""
        self._cursor = record_id(records[-1])
        self._is_resumed = False
        self._read += len(records)
        self._most = _GROWTH * len(records)
        self._average = records_bytes // len(records) + 1

    @property
    def ahead(self) -> bool:
        """Whether to read the next range while this one is sent: only if an average record fits into a read."""
        return self._read < self._needed and self._average <= self._memory.read_bytes


async def _ranges(reader: _Reader) -> AsyncGenerator[tuple[list[bytes], int, bool]]:
    """Yields ranges up to the last record at the start: records, their size in bytes, whether the list ends."""
    reading: asyncio.Future[Read] | None = reader.start()
    last_id = None
    try:
        while True:
            records, records_bytes, is_last = await (reading or reader.start())
            if last_id is None and reader.last is not None:
                last_id = reader.last_id(await reader.last)
            if is_last or reader.is_at_end(records[-1], last_id or 0):
                while records and not reader.descending and record_id(records[-1]) > (last_id or 0):
                    records.pop()  # added since the start
                yield records, sum(map(len, records)), True
                return
            reader.advance(records, records_bytes)
            reading = reader.start() if reader.ahead else None
            yield records, records_bytes, False
    finally:
        if reading is not None:
            reading.cancel()  # its reply is dropped on arrival
        del reader, reading  # breaks a cycle: a failed future keeps its exception, which keeps this frame


def _stops(records: list[bytes], records_bytes: int, size: int, most_bytes: int, *, closes: bool) -> list[int]:
    """Returns the position after the last record of each response that can be made from ``records``.

    A response is full if it has ``size`` records, or if another record would exceed ``most_bytes``. Records that do not
    fill a response stay for the next range; if ``closes``, they form the last response, which may be empty.
    """
    most_bytes -= _TRAILER_BYTES
    if records_bytes <= most_bytes:  # the usual case; the sizes of single records are not needed
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
    if closes and (not stops or stops[-1] < len(records)):
        stops.append(len(records))
    return stops


def _response(records: list[bytes], start: int, stop: int, other_fields: bytes) -> bytes:
    """Joins records into a response, and clears them in the list, so that a slow client does not keep them twice."""
    parts = records[start:stop]
    records[start:stop] = [b""] * len(parts)
    parts.append(other_fields)
    return b"".join(parts)


def _next_count(size: int, read: int, average_bytes: int, read_bytes: int, most: int) -> int:
    """Returns how many records to read next: as many as fit into ``read_bytes``, in whole responses if possible.

    Args:
        size: number of records in a response.
        read: number of records read so far.
        average_bytes: expected size of a record.
        read_bytes: target size of the read.
        most: maximum number of records.
    """
    count = max(1, min(read_bytes // average_bytes, most, MAX_READ))
    return count if count <= size else count // size * size - read % size
