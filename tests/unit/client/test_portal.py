import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import pytest

from userservice import ManagerClosedError
from userservice._portal import Portal, _Worker


async def nothing() -> None:
    pass


async def long() -> None:
    await asyncio.sleep(30)


async def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


class Caller(threading.Thread):
    """Runs something on a portal, and notes whether it is told that the manager is closed."""

    def __init__(self, portal: Portal, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__(daemon=True)
        self._portal, self._work = portal, work
        self.is_refused = False

    def run(self) -> None:
        try:
            self._portal.run(self._work)
        except ManagerClosedError:
            self.is_refused = True


def test_no_thread_before_the_first_call_and_none_after_close() -> None:
    before = threading.active_count()
    portal = Portal()
    assert threading.active_count() == before
    portal.run(nothing)
    assert threading.active_count() == before + 1
    portal.close(nothing)
    portal.close(nothing)
    assert threading.active_count() == before


def test_a_closed_portal_refuses() -> None:
    portal = Portal()
    portal.close(nothing)
    with pytest.raises(ManagerClosedError):
        portal.run(nothing)


def test_a_forgotten_portal_ends_its_thread() -> None:
    before = threading.active_count()
    portal = Portal()
    portal.run(nothing)
    del portal
    assert threading.active_count() == before


def test_closing_ends_calls_of_other_threads() -> None:
    portal = Portal()
    portal.run(nothing)
    caller = Caller(portal, long)
    caller.start()
    time.sleep(0.1)
    portal.close(nothing)
    caller.join(5)
    assert caller.is_refused


def test_many_threads_share_one_loop() -> None:
    portal = Portal()
    loops: set[int] = set()

    async def note() -> None:
        loops.add(id(asyncio.get_running_loop()))

    threads = [threading.Thread(target=portal.run, args=(note,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    portal.close(nothing)
    assert len(loops) == 1


def test_an_interrupt_cancels_the_coroutine(monkeypatch: pytest.MonkeyPatch) -> None:
    portal = Portal()
    cancelled = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    portal.run(nothing)
    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            portal.run(work)
    assert cancelled.wait(5)
    portal.close(nothing)


def test_what_is_posted_to_a_closed_loop_is_dropped() -> None:
    """gRPC does so from the loops of others, where the error would be printed."""
    portal = Portal()
    loop = portal.run(running_loop)
    portal.close(nothing)
    ran: list[int] = []
    loop.call_soon_threadsafe(ran.append, 1)
    portal.post(lambda: ran.append(2))
    assert ran == []


def test_closed_between_the_look_at_the_loop_and_the_post(monkeypatch: pytest.MonkeyPatch) -> None:
    portal = Portal()
    portal.run(nothing)
    coroutines: list[Coroutine[Any, Any, None]] = []

    def work() -> Coroutine[Any, Any, None]:
        coroutines.append(nothing())
        return coroutines[0]

    def late(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> Future[None]:
        monkeypatch.undo()
        portal.close(nothing)
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", late)
    with pytest.raises(ManagerClosedError):
        portal.run(work)
    assert inspect.getcoroutinestate(coroutines[0]) == inspect.CORO_CLOSED, "it would be reported as never awaited"


def test_posted_between_the_last_turn_of_the_loop_and_its_close(monkeypatch: pytest.MonkeyPatch) -> None:
    portal = Portal()
    loop = portal.run(running_loop)
    looked, turned, posted = threading.Event(), threading.Event(), threading.Event()
    post, close = asyncio.run_coroutine_threadsafe, loop.close

    def late_post(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> Future[None]:
        if threading.current_thread() is not caller:
            return post(coroutine, loop)
        looked.set()
        assert turned.wait(5)
        future = post(coroutine, loop)
        posted.set()
        return future

    def late_close() -> None:
        turned.set()
        assert posted.wait(5)
        close()

    caller = Caller(portal, nothing)
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", late_post)
    monkeypatch.setattr(loop, "close", late_close)
    caller.start()
    assert looked.wait(5)
    portal.close(nothing)
    caller.join(5)
    assert caller.is_refused, "the caller waits for ever"


def test_posted_just_before_the_last_turn_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = _Worker()
    say_so = worker._ended.set
    futures: list[Future[None]] = []

    def late() -> None:
        futures.append(worker.submit(long))
        say_so()

    monkeypatch.setattr(worker._ended, "set", late)
    worker.stop(5)
    assert futures[0].cancelled()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loop_that_died_is_a_closed_one() -> None:
    async def leave() -> None:
        raise SystemExit

    portal = Portal()
    with pytest.raises(SystemExit):
        portal.run(leave)
    with pytest.raises(ManagerClosedError):
        portal.run(nothing)
    portal.close(nothing)
