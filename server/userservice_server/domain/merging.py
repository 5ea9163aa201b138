"""Lists of users in the order of their ids, from one table or merged from the tables of all partitions."""

import asyncio
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter, neg
from typing import Protocol, TypeVar

from userservice_server.domain.ports import RecordStore, StoreIdentity, Table
from userservice_server.errors import StoreUnavailableError

_DEVIATIONS = 3  # a partition has fewer than mean + 3 deviations of the next records in 99.9 % of all reads

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


@dataclass(slots=True, eq=False)
class _Part:
    """The records of a table that were read but not returned yet.

    Attributes:
        table: the table.
        read_to: the last id that was read.
        ids: ids of the records in increasing order, negative in a descending list; as floats, which represent all ids
            exactly and compare faster than integers.
        records: the records.
        is_read: whether no record follows.
    """

    table: Table
    read_to: int = 0
    ids: list[float] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    is_read: bool = False

    def take(self, reply: Sequence[bytes], wanted: int, sign: int) -> None:
        """Adds the reply to a range of ``wanted`` records with their ids; ``sign`` is -1 in a descending list."""
        ids = list(map(float, reply[1::2]))
        self.is_read = len(ids) < wanted
        if ids:
            self.read_to = int(ids[-1])
            self.ids += ids if sign > 0 else map(neg, ids)
            self.records += reply[::2]


class MergedTables:
    """The records of several tables in the order of their ids; serves one list.

    Each round reads the next records of every table and takes the smallest of the ids at which the replies end. The
    records up to this id are returned; the others are kept for the next round.

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
        self._sign = -1 if descending else 1
        self._end = end
        self._position = -1  # the last id that was returned

    def size(self) -> "asyncio.Future[int]":
        """See ``Source``."""
        return _combined([self._store.size(part.table) for part in self._parts], sum)

    def last(self) -> "asyncio.Future[list[bytes]]":
        """See ``Source``."""
        tables = [part.table for part in self._parts]
        if self.descending:
            return _combined([self._store.oldest(table) for table in tables], _joined)
        return _combined([self._store.newest(table, self._end) for table in tables], _joined)

    def range(
        self, after: int, count: int, identity: StoreIdentity, *, is_resumed: bool
    ) -> "asyncio.Future[list[bytes]]":
        """See ``Source``."""
        reading = asyncio.ensure_future(self._range(after, count, identity, is_resumed=is_resumed))
        return _combined([reading], itemgetter(0))

    async def _range(self, after: int, count: int, identity: StoreIdentity, *, is_resumed: bool) -> list[bytes]:
        if self._fences:
            self._fences = False
            try:
                await self._store.fence()
            except StoreUnavailableError as error:
                self.fence_failure = error
        if after != self._position:  # the list starts, or did not keep all records of the last range
            self._position = after
            self._parts = [_Part(part.table, after) for part in self._parts]
        mean = count / len(self._parts)
        wanted = math.ceil(mean + _DEVIATIONS * math.sqrt(mean))
        missing = {part: wanted - len(part.ids) for part in self._iter_unread() if len(part.ids) < wanted}
        while True:
            await self._read(missing, identity, is_resumed=is_resumed)
            is_resumed = False
            bound = self._bound()
            if bound == math.inf or sum(bisect_right(part.ids, bound) for part in self._parts) >= count:
                return self._taken(count, bound)
            # Most of the next records are in a few tables: reads more from the tables whose replies ended first.
            missing = {part: wanted for part in self._iter_unread() if self._sign * part.read_to <= bound}
            wanted *= 2

    def _iter_unread(self) -> Iterator[_Part]:
        return (part for part in self._parts if not part.is_read)

    async def _read(self, counts: Mapping[_Part, int], identity: StoreIdentity, *, is_resumed: bool) -> None:
        """Reads the next records of tables."""
        replies = [
            self._store.range(
                part.table,
                part.read_to,
                count,
                identity,
                is_resumed=is_resumed,
                descending=self.descending,
                with_ids=True,
                end=self._end,
            )
            for part, count in counts.items()
        ]
        for (part, count), reply in zip(counts.items(), await asyncio.gather(*replies), strict=True):
            part.take(reply, count, self._sign)

    def _bound(self) -> float:
        """Returns the id up to which the records of all tables were read, with the sign of ``_Part.ids``."""
        return min((self._sign * part.read_to for part in self._parts if not part.is_read), default=math.inf)

    def _taken(self, count: int, bound: float) -> list[bytes]:
        """Removes the next ``count`` records up to ``bound`` from the parts and returns them in order."""
        ids: list[float] = []
        records: list[bytes] = []
        for part in self._parts:
            stop = bisect_right(part.ids, bound)
            ids += part.ids[:stop]
            records += part.records[:stop]
        order = sorted(range(len(ids)), key=ids.__getitem__)[:count]
        if not order:
            return []
        last = ids[order[-1]]
        for part in self._parts:
            stop = bisect_right(part.ids, last)
            del part.ids[:stop], part.records[:stop]
        self._position = abs(int(last))
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
