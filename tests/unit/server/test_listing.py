"""Ranges are split into responses of limited size, and filtered in steps."""

import asyncio
import time
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from userservice_server.domain import listing
from userservice_server.domain.stream_memory import MAX_RESPONSE_BYTES, StreamMemory

MOST = 1000
sizes = st.integers(1, 12)
records = st.lists(st.integers(1, 700).map(bytes), max_size=40)


@given(records, sizes, st.booleans())
def test_responses_hold_as_many_records_as_fit(records: list[bytes], size: int, closes: bool) -> None:  # noqa: FBT001
    stops = listing._stops(records, sum(map(len, records)), size, MOST, closes=closes)
    room = MOST - listing._TRAILER_BYTES
    for start, stop in zip([0, *stops], stops, strict=False):
        held = records[start:stop]
        if not records:
            continue
        assert 1 <= len(held) <= size
        assert len(held) == 1 or sum(map(len, held)) <= room
        if stop < len(records):
            assert len(held) == size or sum(map(len, records[start : stop + 1])) > room, "closed too early"
    left = records[stops[-1] if stops else 0 :]
    if closes:
        assert stops
        assert not left
    else:
        assert len(left) < size
        assert len(left) <= 1 or sum(map(len, left)) <= room, "one more response was full"


def test_few_streams_get_full_responses_and_many_streams_share_memory() -> None:
    memory = StreamMemory()
    assert memory.response_bytes == MAX_RESPONSE_BYTES
    with memory, memory, memory, memory:
        assert memory.response_bytes == MAX_RESPONSE_BYTES
        full = memory.read_bytes
        with memory:
            assert memory.response_bytes < MAX_RESPONSE_BYTES
    entered = [memory.__enter__() for _ in range(100)]
    assert len(entered) * (2 * memory.response_bytes + 2 * memory.read_bytes) <= 50 << 20
    assert memory.read_bytes < full


async def test_other_calls_run_while_a_filter_examines_many_records() -> None:
    turns, steps = 0, list[int]()

    async def other_call() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def slow_filter(records: Sequence[bytes]) -> list[bytes]:
        time.sleep(0.002)
        steps.append(turns)
        return list(records[::2])

    other = asyncio.create_task(other_call())
    selected = await listing.Selection(slow_filter, step=10).select([b"%d" % number for number in range(60)])
    other.cancel()
    assert selected == [b"%d" % number for number in range(0, 60, 2)]
    assert steps == list(range(6))
