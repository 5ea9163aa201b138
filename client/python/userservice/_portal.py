"""A background event loop on which blocking code runs coroutines."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from userservice.errors import ManagerClosedError

T = TypeVar("T")

_EXIT_GRACE = 5.0
"""Seconds that the end of the program waits for a loop that nobody stopped."""


class Portal:
    """One event loop in one thread, both started by the first call. Any number of threads may call.

    Not started before the first call, so a program may make its managers and then fork. A fork afterwards leaves the
    child without the thread, which is noticed and refused.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._closed = False
        self._pid = 0

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs a coroutine on the loop and waits for its result.

        An exception that reaches the waiting thread, such as KeyboardInterrupt, cancels the coroutine.

        Raises:
            ManagerClosedError: If the portal was closed before or meanwhile.
            RuntimeError: If the process was forked since the first call.
        """
        loop = self._started().loop
        future = asyncio.run_coroutine_threadsafe(work(), loop)
        try:
            return future.result()
        except CancelledError:
            # Nobody holds the future but this call; so the loop was stopped under it.
            raise ManagerClosedError("the manager was closed during the call") from None
        except BaseException:
            future.cancel()
            raise

    def post(self, action: Callable[[], object]) -> None:
        """Runs a short function on the loop soon, and does not wait. Does nothing if the loop does not run."""
        with self._lock:
            if self._worker is not None and not self._closed and self._pid == os.getpid():
                self._worker.loop.call_soon_threadsafe(action)

    def _started(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise ManagerClosedError("the manager is closed")
            if self._worker is None:
                self._worker = _Worker()
                self._pid = os.getpid()
                # For programs that forget to close: at exit, or when the last reference to the portal goes.
                weakref.finalize(self, self._worker.stop, self._pid, _EXIT_GRACE)
            elif self._pid != os.getpid():
                raise RuntimeError("this manager was used before the process forked; make one in each process")
            return self._worker

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs a last coroutine, stops the loop and waits for its thread. Safe to call twice."""
        with self._lock:
            closed, self._closed = self._closed, True
        if closed or self._worker is None or self._pid != os.getpid():
            return
        try:
            asyncio.run_coroutine_threadsafe(last(), self._worker.loop).result()
        finally:
            self._worker.stop(self._pid, None)


class _Worker:
    """The loop and its thread. Knows nothing of the portal, so that it does not keep it alive."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(_handle)
        self._stopping = asyncio.Event()
        # A daemon, because interpreter exit waits for other threads before anything could stop them.
        self._thread = threading.Thread(
            target=_serve, args=(self.loop, self._stopping), name="userservice-client", daemon=True
        )
        self._thread.start()

    def stop(self, pid: int, timeout: float | None) -> None:
        """Stops the loop, cancelling what runs on it, and waits for the thread, at most so many seconds."""
        # In a forked child there is no thread to stop, and the loop's wake-up socket is the parent's.
        if pid != os.getpid() or self.loop.is_closed():
            return
        self.loop.call_soon_threadsafe(self._stopping.set)
        # The garbage collector may call this in any thread, even the loop's own.
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)


def _serve(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_wait(stopping))


async def _wait(stopping: asyncio.Event) -> None:
    await stopping.wait()


def _handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # All event loops of a process share gRPC's wake-up socket. The ones that come too late find it empty, which gRPC
    # lets through as an error though nothing is wrong (grpc/grpc#25364).
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)
