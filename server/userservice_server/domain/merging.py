"""Lists of users in the order of their ids, from one table or merged from the tables of all partitions."""

import asyncio
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Protocol, TypeVar

from userservice_server.domain.ports import Ends, RecordStore, StoreIdentity, Table, TableRead
from userservice_server.errors import StoreUnavailableError
from userservice_server.wire.ids import MAX_ID

_DEVIATIONS = 3  # a partition has fewer than mean + 3 deviations of the next records in 99.9 % of all reads
_EXCESS = 2  # a further read requests this many times the missing records, from all tables that may have them
_MOST_JOINT = 128  # records of a range that a script on the server merges
_DIGITS = 15  # of the ids of the years 2026 to 2037
_NO_BOUND = b";"  # greater than all order keys

T = TypeVar("T")
Combined = TypeVar("Combined")


class Source(Protocol):
    """Where a list reads its records from.

    Attributes:
        descending: whether the newest records come first.
        fence_failure: why the list must not have an end: later records could get ids before the end; None: it may end.
    """

    descending: bool
    fence_failure: StoreUnavailableError | None

    def size(self) -> "asyncio.Future[int]":
        """Starts to count the records."""

    def last(self) -> "asyncio.Future[list[bytes]]":
        """Starts to read the last record of each table in the order of the list, which ends at these records."""

    def range(
        self, after: int, count: int, identity: StoreIdentity, *, is_resumed: bool
    ) -> "asyncio.Future[list[bytes]]":
        """Starts to read the ``count`` records after an id; fewer only at the end. See ``RecordStore.range``."""


class OneTable:
    """The records of one table.

    Args:
        store: the store of the table.
        table: the table.
        descending: whether the newest records come first.
        end: the largest id of the list; 0: the list has no such limit.
    """

    def __init__(self, store: RecordStore, table: Table, *, descending: bool = False, end: int = 0) -> None:
        self.descending = descending
        self.fence_failure: StoreUnavailableError | None = None
        self._store = store
        self._table = table
        self._end = end

    def size(self) -> "asyncio.Future[int]":
        """See ``Source``."""
        return self._store.size(self._table)

    def last(self) -> "asyncio.Future[list[bytes]]":
        """See ``Source``."""
        return self._store.oldest(self._table) if self.descending else self._store.newest(self._table, self._end)

    def range(
        self, after: int, count: int, identity: StoreIdentity, *, is_resumed: bool
    ) -> "asyncio.Future[list[bytes]]":
        """See ``Source``."""
        return self._store.range(
            self._table, after, count, identity, is_resumed=is_resumed, descending=self.descending, end=self._end
        )


def _order_key(number: int) -> bytes:
    """Returns bytes in the order of the numbers, up to 16 digits; for a number of 15 digits, they are its digits."""
    return b"%0*d" % (_DIGITS, number) if number < 10**_DIGITS else b":%d" % number  # a colon is above all digits


def _order_keys(ids: list[bytes], *, descending: bool) -> list[bytes]:
    """Returns a key for each id; the keys compare as the ids do, or in reverse if ``descending``.

    Ids that increase and have 15 digits, which they have until 2037, are their own keys: converting the ids into
    numbers takes longer than the rest of the merge.
    """
    if descending:
        return [_order_key(MAX_ID - _number(each)) for each in ids]
    if len(ids[0]) == len(ids[-1]) == _DIGITS and len(b"".join(ids)) == len(ids) * _DIGITS:
        return ids
    return [_order_key(_number(each)) for each in ids]


def _number(text: bytes) -> int:
    """Returns an id, given as the store writes scores, for example 1.536132e+14; a float represents it exactly."""
    return int(float(text))


@dataclass(slots=True, eq=False)
class _Part:
    """The records of a table that were read but not returned yet.

    Attributes:
        table: the table.
        read_to: the last id that was read.
        stop: the order key of this id.
        keys: the order keys of the records, in increasing order.
        records: the records.
        is_read: whether no record follows.
    """

    table: Table
    read_to: int = 0
    stop: bytes = b""
    keys: list[bytes] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    is_read: bool = False

    def take(self, reply: Sequence[bytes], wanted: int, *, descending: bool) -> None:
        """Adds the reply to a range of ``wanted`` records with their ids."""
        ids = list(reply[1::2])
        self.is_read = len(ids) < wanted
        if ids:
            self.read_to = _number(ids[-1])
            keys = _order_keys(ids, descending=descending)
            self.stop = keys[-1]
            self.keys += keys
            self.records += reply[::2]


class MergedTables:
    """The records of several tables in the order of their ids; serves one list.

    If one server has all tables, a script merges small ranges on this server, with one command for each range. Other
    ranges are merged here. Each round reads the next records of every table and takes the smallest of the ids at which
    the replies end. The records up to this id are returned; the others are kept for the next round.

    Args:
        store: the store of the tables.
        tables: at least two tables.
        descending: whether the newest records come first.
        fences: whether the store raises its last ids before the list ends, so that records that are added later get ids
            after the end, although the clocks of the servers differ. Without this fence, a list must not be presented
            as complete.
        end: the largest id of the list; 0: the list has no such limit.

    Attributes:
        fence_failure: see ``Source``.
    """

    def __init__(
        self, store: RecordStore, tables: Sequence[Table], *, fences: bool, descending: bool = False, end: int = 0
    ) -> None:
        self.descending = descending
        self.fence_failure: StoreUnavailableError | None = None
        self._store = store
        self._parts = [_Part(table) for table in tables]
        self._fences = fences and not descending  # the end of a descending list is its oldest record
        self._end = end
        self._position = -1  # the last id that was returned
        self._ends: asyncio.Future[Ends] | None = None  # read for ``size``, and not used by ``last`` yet
        self._last: asyncio.Future[list[bytes]] | None = None  # kept for the fence, which must follow this read

    def size(self) -> "asyncio.Future[int]":
        """See ``Source``."""
        if self._store.is_joint:
            self._ends = self._joint_ends()
            return _combined([self._ends], lambda replies: replies[0].size)
        return _combined([self._store.size(part.table) for part in self._parts], sum)

    def last(self) -> "asyncio.Future[list[bytes]]":
        """See ``Source``."""
        last = self._start_last()
        if self._fences:
            self._last = last
        return last

    def _start_last(self) -> "asyncio.Future[list[bytes]]":
        if self._store.is_joint:
            ends, self._ends = self._ends or self._joint_ends(), None
            return _combined([ends], lambda replies: replies[0].record)
        tables = [part.table for part in self._parts]
        if self.descending:
            return _combined([self._store.oldest(table) for table in tables], _joined)
        return _combined([self._store.newest(table, self._end) for table in tables], _joined)

    def _joint_ends(self) -> "asyncio.Future[Ends]":
        return asyncio.ensure_future(self._store.joint_ends(descending=self.descending, end=self._end))

    def range(
        self, after: int, count: int, identity: StoreIdentity, *, is_resumed: bool
    ) -> "asyncio.Future[list[bytes]]":
        """See ``Source``."""
        reading = asyncio.ensure_future(self._range(after, count, identity, is_resumed=is_resumed))
        return _combined([reading], itemgetter(0))

    async def _range(self, after: int, count: int, identity: StoreIdentity, *, is_resumed: bool) -> list[bytes]:
        if self._fences:
            await self._raise_last_ids()
        if self._store.is_joint and count <= _MOST_JOINT:
            return await self._store.joint_range(
                after, count, identity, is_resumed=is_resumed, descending=self.descending, end=self._end
            )
        if after != self._position:  # the list starts, or did not keep all records of the last range
            self._position = after
            self._parts = [_Part(part.table, after) for part in self._parts]
        mean = count / len(self._parts)
        wanted = math.ceil(mean + _DEVIATIONS * math.sqrt(mean))
        missing = {part: wanted - len(part.keys) for part in self._iter_unread() if len(part.keys) < wanted}
        while True:
            if missing:
                await self._read(missing, identity, is_resumed=is_resumed)
            is_resumed = False
            # The records of all tables were read up to this key.
            bound = min((part.stop for part in self._iter_unread()), default=_NO_BOUND)
            found = sum(bisect_right(part.keys, bound) for part in self._parts)
            if bound == _NO_BOUND or found >= count:
                return self._taken(count, bound)
            # A few tables have most of the next records, for example after an import.
            missing = self._missing(count - found, count)

    async def _raise_last_ids(self) -> None:
        """Sets the fence, after the last record of the list was read."""
        self._fences = False
        last, self._last = self._last, None
        try:
            if last is not None:
                await last
        finally:
            del last  # breaks a cycle: a failed future keeps its exception, which keeps this frame
        try:
            await self._store.fence()
        except StoreUnavailableError as error:
            self.fence_failure = error

    def _missing(self, needed: int, count: int) -> dict[_Part, int]:
        """Returns how many records to read from which tables, if ``needed`` of the next ``count`` records are missing.

        Of the records that were read, the record with the number ``count`` is a limit: none of the next records follows
        it. Tables that were read up to this record need no further read.
        """
        keys = sorted(chain.from_iterable(part.keys for part in self._parts))
        limit = keys[count - 1] if len(keys) >= count else _NO_BOUND
        behind = [part for part in self._iter_unread() if part.stop < limit]
        wanted = min(needed, math.ceil(_EXCESS * needed / len(behind)))
        return dict.fromkeys(behind, wanted)

    def _iter_unread(self) -> Iterator[_Part]:
        return (part for part in self._parts if not part.is_read)

    async def _read(self, counts: Mapping[_Part, int], identity: StoreIdentity, *, is_resumed: bool) -> None:
        """Reads the next records of tables."""
        reads = [TableRead(part.table, part.read_to, count) for part, count in counts.items()]
        replies = await self._store.ranges(
            reads, identity, is_resumed=is_resumed, descending=self.descending, end=self._end
        )
        for (part, count), reply in zip(counts.items(), replies, strict=True):
            part.take(reply, count, descending=self.descending)

    def _taken(self, count: int, bound: bytes) -> list[bytes]:
        """Removes the next ``count`` records up to ``bound`` from the parts and returns them in order."""
        keys: list[bytes] = []
        records: list[bytes] = []
        for part in self._parts:
            stop = bisect_right(part.keys, bound)
            keys += part.keys[:stop]
            records += part.records[:stop]
        order = sorted(range(len(keys)), key=keys.__getitem__)[:count]
        if not order:
            return []
        last = keys[order[-1]]
        for part in self._parts:
            stop = bisect_right(part.keys, last)
            del part.keys[:stop], part.records[:stop]
        number = int(last.lstrip(b":"))
        self._position = MAX_ID - number if self.descending else number
        return list(map(records.__getitem__, order))


def _joined(replies: list[list[bytes]]) -> list[bytes]:
    return list(chain.from_iterable(replies))


def _combined(
    replies: "Sequence[asyncio.Future[T]]", combine: "Callable[[list[T]], Combined]"
) -> "asyncio.Future[Combined]":
    """Returns a future with the result of ``combine`` for all replies; the future need not be awaited."""
    combined: asyncio.Future[Combined] = replies[0].get_loop().create_future()
    missing = len(replies)

    def arrived(reply: "asyncio.Future[T]") -> None:
        nonlocal missing
        missing -= 1
        if combined.done():
            return
        error = StoreUnavailableError("the store is not available") if reply.cancelled() else reply.exception()
        if error is not None:
            combined.set_exception(error)
            combined.exception()  # marks it as retrieved, in case nobody awaits it any more
        elif not missing:
            combined.set_result(combine([each.result() for each in replies]))

    for reply in replies:
        reply.add_done_callback(arrived)
    return combined
