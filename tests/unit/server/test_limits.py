"""Limits on how long a task may wait."""

import asyncio

import pytest

from userservice_server.transport.limits import Limit, Limits, TimeIsUpError


async def test_a_limit_ends_what_takes_too_long() -> None:
    with pytest.raises(TimeIsUpError), Limit(Limits(), 0.01):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task
    assert task.cancelling() == 0


async def test_what_ends_in_time_is_left_alone() -> None:
    limits = Limits()
    with Limit(limits, 30):
        await asyncio.sleep(0)
    assert not limits._running


async def test_a_limit_put_off_or_at_rest_does_not_end_anything() -> None:
    limits = Limits()
    with Limit(limits, 0.6) as limit:
        limit.rest()
        await asyncio.sleep(0.8)
        for _ in range(4):
            limit.put_off()
            await asyncio.sleep(0.2)


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def wait() -> None:
        with Limit(Limits(), 30):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_each_of_many_limits_ends_its_own_task() -> None:
    limits = Limits()

    async def wait(seconds: float) -> str:
        try:
            with Limit(limits, seconds):
                await asyncio.sleep(0.5)
        except TimeIsUpError:
            return "over"
        return "done"

    assert await asyncio.gather(*map(wait, (0.01, 30, 0.02, 30))) == ["over", "done", "over", "done"]
