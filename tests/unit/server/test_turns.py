"""The queues of writers: order, bounds, cancellation, and nothing left afterwards."""

import asyncio

import pytest

from userservice_server.domain import turns
from userservice_server.domain.turns import Turns
from userservice_server.errors import UpdateConflictError
from userservice_server.store.keys import Keys

TABLE = Keys("prefix", 1).users("ada")
KEY = (TABLE, "ada")


async def test_writers_take_turns_in_order_and_pass_the_record_on() -> None:
    queue = Turns()
    order: list[tuple[int, bytes]] = []

    async def write(number: int) -> None:
        order.append((number, await queue.take(KEY)))
        await asyncio.sleep(0)
        queue.pass_on(KEY, b"%d" % number)

    await asyncio.gather(*(write(number) for number in range(6)))
    # The fourth that had to wait reads again.
    assert order == [(0, b""), (1, b"0"), (2, b"1"), (3, b"2"), (4, b""), (5, b"4")]
    assert not queue._lines


async def test_writers_of_other_records_do_not_wait() -> None:
    queue = Turns()
    assert await queue.take(KEY) == b""
    assert await asyncio.wait_for(queue.take((TABLE, "bob")), 1) == b""


async def test_cancelled_writers_leave_the_queue() -> None:
    queue = Turns()
    await queue.take(KEY)
    waiting = [asyncio.create_task(queue.take(KEY)) for _ in range(4)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[2].cancel()
    await asyncio.sleep(0)
    assert len(queue._lines[KEY]) == 2
    queue.pass_on(KEY, b"x")
    waiting[1].cancel()  # at the same time as its turn comes
    assert await waiting[3] == b"x"
    assert waiting[1].cancelled()
    queue.pass_on(KEY, b"")
    assert not queue._lines


async def test_the_turn_of_a_cancelled_last_writer_ends() -> None:
    queue = Turns()
    await queue.take(KEY)
    task = asyncio.create_task(queue.take(KEY))
    await asyncio.sleep(0)
    queue.pass_on(KEY, b"x")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not queue._lines


async def test_a_call_above_the_limit_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MAX_WAITING", 2)
    queue = Turns()
    await queue.take(KEY)
    waiting = [asyncio.create_task(queue.take(KEY)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(UpdateConflictError):
        await queue.take(KEY)
    for _ in range(3):
        queue.pass_on(KEY, b"")
        await asyncio.sleep(0)
    assert not queue._lines
    await asyncio.gather(*waiting)
