"""The memory that lists take: how large responses and reads of the store may be, and how many reads run at once."""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from types import TracebackType
from typing import NamedTuple, Self

MAX_RESPONSE_BYTES = 1 << 20
MAX_READ = 2000  # records: more were no faster, and one that turns out to be of the largest records has 133 MiB
LARGEST_RECORD_BYTES = 68 << 10  # 64 KiB of metadata, and the rest
_READ_BYTES = 1 << 20  # what one read of the store aims at; a stream holds two reads at the most
_STREAMS_BYTES = 4 << 20  # of responses of all streams of a process, see StreamMemory
_MIN_SHARE_BYTES = 16 << 10
_RUNNING_READS_BYTES = 4 << 20  # as expected; the connection to the store is serial, so more would gain nothing
_PAGES_AT_ONCE, _BATCHES_AT_ONCE = 16, 4
_MEMORY_RECORDS = 128  # how many new records count as much as all that were read before, see ReadLimit


class Read(NamedTuple):
    """What a read of the store came to.

    Attributes:
        records: in the order of their ids; as many as fit, at least one if there is one.
        size: their bytes.
        is_last: whether there is none behind them.
    """

    records: list[bytes]
    size: int
    is_last: bool


class Plan(NamedTuple):
    """How large a read is to be.

    Attributes:
        records: how many at the most.
        expected_bytes: how many bytes they probably have.
        most_bytes: how many bytes of the reply are kept, if it has more than one record.
    """

    records: int
    expected_bytes: int
    most_bytes: int


@dataclass(slots=True, eq=False)
class _Waiting:
    plan: Callable[[], Plan]
    send: Callable[[int], "asyncio.Future[list[bytes]]"]
    reply: "asyncio.Future[Read]"


class ReadLimit:
    """Starts the reads of all lists of a process in turn, so that the sum of their replies is bounded.

    The size of a reply is known only when it is there. Reads run at once as long as they are expected to have 4 MiB
    together, and never of more than MAX_READ records: this bounds the sum, whatever the records are. Of a reply that
    is larger than expected only the first records are kept, the others are read again later.

    Attributes:
        record_bytes: the size of a record that is expected where nothing else is known, from what reads brought.
        pages: to be held while a page is read: reads start in turn, so all pages would keep their first records until
            every other page has its own.
        batches: the same for users by name, of which a response holds up to 68 MiB.
    """

    def __init__(self) -> None:
        self.record_bytes = LARGEST_RECORD_BYTES
        self.pages = asyncio.Semaphore(_PAGES_AT_ONCE)
        self.batches = asyncio.Semaphore(_BATCHES_AT_ONCE)
        self._waiting: deque[_Waiting] = deque()
        self._running_records = 0
        self._running_bytes = 0

    def start(
        self, plan: Callable[[], Plan], send: Callable[[int], "asyncio.Future[list[bytes]]"]
    ) -> "asyncio.Future[Read]":
        """Starts a read as soon as there is room; returns a future of what it comes to, which may be cancelled.

        Args:
            plan: asked for how large the read is to be, when there may be room.
            send: starts a read of up to so many records.
        """
        reply: asyncio.Future[Read] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(plan, send, reply))
        self._admit()
        return reply

    def _admit(self) -> None:
        while self._waiting:
            waiting = self._waiting[0]
            if not waiting.reply.done():  # else its list has ended
                plan = waiting.plan()
                if self._running_records and (
                    self._running_records + plan.records > MAX_READ
                    or self._running_bytes + plan.expected_bytes > _RUNNING_READS_BYTES
                ):
                    return
                self._run(waiting, plan)
            self._waiting.popleft()

    def _run(self, waiting: _Waiting, plan: Plan) -> None:
        try:
            sent = waiting.send(plan.records)
        except Exception as error:  # noqa: BLE001 - for the one who waits, who may be another one than who calls
            waiting.reply.set_exception(error)
            return
        self._running_records += plan.records
        self._running_bytes += plan.expected_bytes

        def arrived(sent: "asyncio.Future[list[bytes]]") -> None:
            # Not earlier, though the list may have ended: until then its reply is on its way.
            self._running_records -= plan.records
            self._running_bytes -= plan.expected_bytes
            self._hand_over(waiting.reply, plan, sent)
            self._admit()

        sent.add_done_callback(arrived)

    def _hand_over(self, reply: "asyncio.Future[Read]", plan: Plan, sent: "asyncio.Future[list[bytes]]") -> None:
        failure = sent.exception()
        if reply.done():
            return
        if failure is not None:
            reply.set_exception(failure)
            reply.exception()  # seen here, in case nobody awaits it any more
            return
        records = sent.result()
        self._learn(len(records), sum(map(len, records)))
        reply.set_result(_fitting(records, plan))

    def _learn(self, count: int, size: int) -> None:
        """Adjusts what is expected: upwards at once, downwards by as much as the number of records shows."""
        if count and size > count * self.record_bytes:
            self.record_bytes = size // count + 1
        else:
            self.record_bytes = (self.record_bytes * _MEMORY_RECORDS + size) // (_MEMORY_RECORDS + count) + 1


def _fitting(records: list[bytes], plan: Plan) -> Read:
    """What is kept of a reply: the first records; what exceeds the plan is dropped from the list."""
    is_last, size = len(records) < plan.records, sum(map(len, records))
    if size > plan.most_bytes and len(records) > 1:
        sizes = list(accumulate(map(len, records)))
        fitting = max(1, bisect_right(sizes, plan.most_bytes))
        is_last, size = is_last and fitting == len(records), sizes[fitting - 1]
        del records[fitting:]
    return Read(records, size, is_last)


class StreamMemory:
    """Divides the memory that streams may take among those that run, each as long as it is in its ``with`` block.

    A reader that does not read keeps a response in memory, which grpc cannot take back, and the reads behind it. A few
    streams have responses and reads of full size; of very many, each has smaller ones.
    """

    def __init__(self) -> None:
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
        """What a read of the store aims at now."""
        return min(_READ_BYTES, self._share // 2)

    @property
    def _share(self) -> int:
        return max(_STREAMS_BYTES // max(self._running, 1), _MIN_SHARE_BYTES)
