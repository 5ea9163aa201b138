"""A started coroutine behaves as if it had been awaited from the beginning."""

import asyncio

import pytest

from userservice_server.transport.started import Started


async def test_a_started_coroutine_runs_immediately_until_its_first_wait() -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append("begun")
        await asyncio.sleep(0.01)
        seen.append("ended")

    started = Started(work())
    assert seen == ["begun"]
    await started
    assert seen == ["begun", "ended"]


async def test_a_coroutine_that_never_waits_is_done_immediately() -> None:
    async def work() -> None:
        pass

    await Started(work())


async def test_the_failure_of_a_started_coroutine_is_raised_at_its_await() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise OSError("planted")

    with pytest.raises(OSError, match="planted"):
        await Started(work())


async def test_a_cancellation_reaches_the_awaited_task() -> None:
    cancelled = False

    async def work() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    async def run() -> None:
        await Started(work())

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled
