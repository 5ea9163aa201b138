"""Limits the memory of lists: the size of responses and reads, and the number of reads that run at the same time."""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from itertools import accumulate
from types import TracebackType
from typing import NamedTuple, Self

MAX_RESPONSE_BYTES = 1 << 20
MAX_READ = 2000  # records in a read; more is not faster, and 2000 of the largest records are 133 MiB
LARGEST_RECORD_BYTES = 68 << 10  # 64 KiB of metadata, and the other fields
_READ_BYTES = 1 << 20  # target size of a read; a stream keeps at most two reads in memory
_STREAMS_BYTES = 4 << 20  # for the responses of all streams of a process, see StreamMemory
_MIN_SHARE_BYTES = 16 << 10
_RUNNING_READS_BYTES = 4 << 20  # expected size of all running reads; they share a connection, so more is not faster
_PAGES_AT_ONCE, _BATCHES_AT_ONCE = 16, 4
_MEMORY_RECORDS = 128  # the expected size of a record weighs as much as this number of new records


class Read(NamedTuple):
    """The result of a read of the store.

    Attributes:
        records: the records that fit, in the order of their ids; at least one, unless no record follows.
        size: size of the records in bytes.
        is_last: whether no record follows them in the table.
    """

    records: list[bytes]
    size: int
    is_last: bool


class Plan(NamedTuple):
    """The planned size of a read.

    Attributes:
        records: maximum number of records.
        expected_bytes: expected size of the reply.
        most_bytes: maximum size of the records that are kept from the reply; the first record is always kept.
    """

    records: int
    expected_bytes: int
    most_bytes: int


@dataclass(slots=True, eq=False)
class _Waiting:
    plan: Callable[[], Plan]
    send: Callable[[int], "asyncio.Future[list[bytes]]"]
    reply: "asyncio.Future[Read]"
    context: Context


class ReadLimit:
    """Schedules the reads of all lists of a process, first come, first served, to limit the memory of their replies.

    The size of a reply is unknown until the reply arrives. Therefore two limits apply to the reads that run at the same
    time: their expected size is at most 4 MiB, and they have at most MAX_READ records, which limits their memory even
    if all records are of the largest size. If a reply is larger than planned, only its first records are kept, and the
    other records are read again later.

    Attributes:
        record_bytes: expected size of a record, derived from earlier reads, for lists that have read nothing yet.
        pages: semaphore to acquire while a page is read. Without it, many pages could be read at the same time, and
            each would keep its first records in memory until its turn for the next read comes.
        batches: semaphore to acquire while many users are read by user_id; such a response can have 68 MiB.
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
        """Starts a read as soon as the limits allow; returns a future of its result, which may be cancelled.

        Args:
            plan: returns the planned size of the read; called when the read may be able to start.
            send: sends the command that reads up to a number of records.
        """
        reply: asyncio.Future[Read] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(plan, send, reply, copy_context()))
        self._admit()
        return reply

    def _admit(self) -> None:
        while self._waiting:
            waiting = self._waiting[0]
            if not waiting.reply.done():  # the list may have ended in the meantime
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
            # The end of another list's read can start this read. The context of its own list assigns the read to the
            # trace of this list.
            sent = waiting.context.run(waiting.send, plan.records)
        except Exception as error:  # noqa: BLE001 - the error of the waiting list, not of the caller
            waiting.reply.set_exception(error)
            return
        self._running_records += plan.records
        self._running_bytes += plan.expected_bytes

        def arrived(sent: "asyncio.Future[list[bytes]]") -> None:
            # The read counts until its reply arrives, even if its list has ended, because the reply takes memory.
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
            reply.exception()  # marks it as retrieved, in case nobody awaits it any more
            return
        records = sent.result()
        self._learn(len(records), sum(map(len, records)))
        reply.set_result(_fitting(records, plan))

    def _learn(self, count: int, size: int) -> None:
        """Adjusts the expected size of a record: at once if records are larger, gradually if they are smaller."""
        if count and size > count * self.record_bytes:
            self.record_bytes = size // count + 1
        else:
            self.record_bytes = (self.record_bytes * _MEMORY_RECORDS + size) // (_MEMORY_RECORDS + count) + 1


def _fitting(records: list[bytes], plan: Plan) -> Read:
    """Returns the part of a reply that is kept; removes the records beyond ``plan.most_bytes`` from the list."""
    is_last, size = len(records) < plan.records, sum(map(len, records))
    if size > plan.most_bytes and len(records) > 1:
        sizes = list(accumulate(map(len, records)))
        fitting = max(1, bisect_right(sizes, plan.most_bytes))
        is_last, size = is_last and fitting == len(records), sizes[fitting - 1]
        del records[fitting:]
    return Read(records, size, is_last)


class StreamMemory:
    """Divides a fixed amount of memory among the running streams. A stream runs for the duration of its ``with`` block.

    A stream whose client does not read keeps a response, which grpc cannot release, and the reads for the next
    responses in memory. A few streams have responses and reads of full size; with many streams, each has smaller ones.
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
        """The maximum size of a response, for the number of streams that are running now."""
        return min(MAX_RESPONSE_BYTES, self._share)

    @property
    def read_bytes(self) -> int:
        """The target size of a read, for the number of streams that are running now."""
        return min(_READ_BYTES, self._share // 2)

    @property
    def _share(self) -> int:
        return max(_STREAMS_BYTES // max(self._running, 1), _MIN_SHARE_BYTES)
