"""Deadlines of tasks."""

import asyncio

import pytest

from userservice_server.transport.deadlines import Deadline, DeadlinePassedError, Deadlines


async def test_a_deadline_cancels_a_block_that_takes_too_long() -> None:
    with pytest.raises(DeadlinePassedError), Deadline(Deadlines(), 0.01):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task
    assert task.cancelling() == 0


async def test_a_block_that_ends_before_the_deadline_is_not_cancelled() -> None:
    deadlines = Deadlines()
    with Deadline(deadlines, 30):
        await asyncio.sleep(0)
    assert not deadlines._running


async def test_a_restarted_or_paused_deadline_does_not_expire() -> None:
    deadlines = Deadlines()
    with Deadline(deadlines, 0.6) as deadline:
        deadline.pause()
        await asyncio.sleep(0.8)
        for _ in range(4):
            deadline.restart()
            await asyncio.sleep(0.2)


async def test_a_cancellation_by_another_cause_is_not_replaced() -> None:
    async def wait() -> None:
        with Deadline(Deadlines(), 30):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_each_of_many_deadlines_cancels_its_own_task() -> None:
    deadlines = Deadlines()

    async def wait(seconds: float) -> str:
        try:
            with Deadline(deadlines, seconds):
                await asyncio.sleep(0.5)
        except DeadlinePassedError:
            return "over"
        return "done"

    assert await asyncio.gather(*map(wait, (0.01, 30, 0.02, 30))) == ["over", "done", "over", "done"]
