"""The limit on concurrent reads of the store, and on the size of their replies."""

import asyncio
from contextvars import ContextVar
from functools import partial

import pytest

from userservice_server.domain import stream_memory
from userservice_server.domain.stream_memory import LARGEST_RECORD_BYTES, MAX_READ, Plan, Read, ReadLimit

MIB = 1 << 20


class Store:
    """A store that replies when the test releases the reply."""

    def __init__(self) -> None:
        self.running: list[tuple[int, asyncio.Future[list[bytes]]]] = []

    def send(self, count: int) -> "asyncio.Future[list[bytes]]":
        reply: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self.running.append((count, reply))
        return reply

    async def reply(self, records: list[bytes]) -> None:
        _, reply = self.running.pop(0)
        reply.set_result(records)
        await asyncio.sleep(0.001)


def start(limit: ReadLimit, store: Store, count: int, expected: int, most: int = MIB) -> "asyncio.Future[Read]":
    return limit.start(partial(Plan, count, expected, most), store.send)


@pytest.mark.parametrize(
    ("count", "expected", "at_once"), [(1, MIB, 4), (500, 1000, 4), (MAX_READ, 1000, 1), (1, 1, 40)]
)
async def test_the_sum_of_the_running_reads_is_bounded(count: int, expected: int, at_once: int) -> None:
    limit, store = ReadLimit(), Store()
    replies = [start(limit, store, count, expected) for _ in range(40)]
    assert len(store.running) == at_once
    for _ in range(40):
        await store.reply([b"x"] * count)
        assert len(store.running) <= at_once
    assert all(reply.done() for reply in replies)


async def test_a_read_larger_than_all_bounds_runs_alone() -> None:
    limit, store = ReadLimit(), Store()
    for _ in range(3):
        start(limit, store, 2 * MAX_READ, 100 * MIB)
    assert len(store.running) == 1


async def test_a_cancelled_read_counts_until_its_reply_arrives() -> None:
    limit, store = ReadLimit(), Store()
    first, second, third = (start(limit, store, MAX_READ, 1) for _ in range(3))
    first.cancel()
    second.cancel()
    await asyncio.sleep(0.001)
    assert len(store.running) == 1
    await store.reply([])
    assert len(store.running) == 1  # the third: the second was never sent
    await store.reply([b"x"])
    assert (await third).records == [b"x"]


async def test_a_read_that_has_waited_is_sent_in_the_context_of_its_list() -> None:
    limit, store, context, seen = ReadLimit(), Store(), ContextVar("list", default=""), []

    def send(count: int) -> "asyncio.Future[list[bytes]]":
        seen.append(context.get())
        return store.send(count)

    async def read(name: str) -> None:
        context.set(name)
        await limit.start(partial(Plan, MAX_READ, 1, MIB), send)

    lists = [asyncio.create_task(read(name)) for name in "abc"]
    while len(seen) < 3:
        await asyncio.sleep(0.001)
        if store.running:
            await store.reply([])
    assert seen == ["a", "b", "c"]
    await store.reply([])
    await asyncio.gather(*lists)


async def test_a_failed_read_raises_in_its_list_and_frees_its_memory() -> None:
    limit, store = ReadLimit(), Store()
    first, _ = start(limit, store, MAX_READ, 1), start(limit, store, MAX_READ, 1)
    store.running.pop()[1].set_exception(ValueError("lost"))
    with pytest.raises(ValueError, match="lost"):
        await first
    assert len(store.running) == 1


async def test_the_first_records_of_a_reply_that_is_too_large_are_kept() -> None:
    limit, store = ReadLimit(), Store()
    for records, most, kept, is_last in (
        ([b"x" * 10] * 5, 50, 5, False),
        ([b"x" * 10] * 5, 49, 4, False),
        ([b"x" * 10] * 3, 25, 2, False),  # not the last, though the store had no more
        ([b"x" * 10] * 3, 30, 3, True),
        ([b"x" * 100] * 5, 10, 1, False),
        ([], 10, 0, True),
    ):
        reply = start(limit, store, 5, 1, most)
        await store.reply(list(records))
        read = await reply
        assert (len(read.records), read.size, read.is_last) == (kept, sum(map(len, records[:kept])), is_last)


async def test_one_large_record_changes_the_expected_size_and_small_records_do_not() -> None:
    limit, store = ReadLimit(), Store()

    async def read(records: list[bytes]) -> int:
        reply = start(limit, store, len(records), 1)
        await store.reply(records)
        await reply
        return limit.record_bytes

    assert await read([b"x" * 10]) > LARGEST_RECORD_BYTES * 0.9
    for _ in range(10):
        small = await read([b"x" * 10] * 1000)
    assert small < 20
    assert await read([b"x" * 60_000]) >= 60_000


def test_the_reads_of_all_lists_have_a_maximum_size() -> None:
    assert MAX_READ * stream_memory.LARGEST_RECORD_BYTES <= 133 * MIB
