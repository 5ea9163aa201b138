import asyncio
import os
import threading
import time

import pytest

from userservice import ManagerClosedError
from userservice._portal import Portal


async def nothing() -> None:
    pass


async def long() -> None:
    await asyncio.sleep(30)


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
    errors: list[BaseException] = []

    def call() -> None:
        try:
            portal.run(long)
        except ManagerClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.1)
    portal.close(nothing)
    thread.join(5)
    assert len(errors) == 1


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


def test_a_fork_after_the_first_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    portal = Portal()
    portal.run(nothing)
    pid = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid + 1)
        with pytest.raises(RuntimeError, match="forked"):
            portal.run(nothing)
        portal.close(nothing)
    assert any(thread.name == "userservice-client" for thread in threading.enumerate())
    del portal
