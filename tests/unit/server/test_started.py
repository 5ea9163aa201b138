"""What has been started goes on as if it had been awaited from the beginning."""

import asyncio

import pytest

from userservice_server.transport.started import Started


async def test_it_runs_up_to_its_first_wait_at_once_and_to_its_end_when_awaited() -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append("begun")
        await asyncio.sleep(0.01)
        seen.append("ended")

    started = Started(work())
    assert seen == ["begun"]
    await started
    assert seen == ["begun", "ended"]


async def test_what_never_waits_is_done_at_once() -> None:
    async def work() -> None:
        pass

    await Started(work())


async def test_its_failure_is_raised_where_it_is_awaited() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise OSError("planted")

    with pytest.raises(OSError, match="planted"):
        await Started(work())


async def test_a_cancellation_reaches_what_it_waits_for() -> None:
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
