"""A background event loop on which blocking code runs coroutines."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

from userservice._forks import forks
from userservice._monkey import reject_monkey_patching
from userservice.errors import ManagerClosedError, ManagerUnusableError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_EXIT_GRACE = 5.0
"""Seconds that the end of the program waits for a loop that nobody stopped."""


class Portal:
    """One event loop in one thread, both started by the first call. Any number of threads may call.

    Not started before the first call, so a program may make its managers and then fork. A fork while a portal runs
    leaves the child without the threads that gRPC needs, for new portals too; so there all of them refuse.
    """

    def __init__(self) -> None:
        self._worker: _Worker | None = None
        self._closed = False

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs a coroutine on the loop and waits for its result.

        An exception that reaches the waiting thread, such as KeyboardInterrupt, cancels the coroutine.

        Raises:
            ManagerClosedError: If the portal was closed before or meanwhile.
            ManagerUnusableError: If the process was forked while a portal ran, this one or another, if gevent or
                eventlet has patched it, if it cannot start a thread, or if this is called in the thread of the loop.
        """
        worker = self._started()
        if worker.is_current():
            # Code of the program that a call runs on the loop, such as `items` of its mapping or `__del__`.
            raise ManagerUnusableError("a blocking manager cannot be used inside one of its own calls")
        future = worker.submit(work)
        try:
            return future.result()
        except CancelledError:
            # Nobody holds the future but this call; so the loop was stopped under it.
            raise ManagerClosedError("the manager was closed during the call") from None
        except BaseException:
            future.cancel()
            raise
        finally:
            del future  # it keeps the exception, and the traceback of the exception this frame: a reference cycle

    def post(self, action: Callable[[], object]) -> None:
        """Runs a short function on the loop soon, and does not wait. Does nothing if the loop does not run.

        Takes no lock: the garbage collector may end a stream, which posts, anywhere, the loop's own thread included.
        """
        # In a forked child the loop's wake-up socket is the parent's.
        if self._worker is not None and not forks.broken:
            self._worker.loop.call_soon_threadsafe(action)

    def _started(self) -> _Worker:
        forks.refuse()  # first, because in a forked child nothing else may be touched
        with forks.starting:
            if self._closed:
                raise ManagerClosedError("the manager is closed")
            if self._worker is None:
                reject_monkey_patching()
                self._worker = _Worker()
                # For programs that forget to close: at exit, or when the last reference to the portal goes.
                weakref.finalize(self, self._worker.stop, _EXIT_GRACE)
            return self._worker

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs a last coroutine, stops the loop and waits for its thread. Safe to call twice.

        Calls that run, or that find the loop just before it stops, end with ManagerClosedError.
        """
        if forks.broken:
            return
        with forks.starting:
            closed, self._closed = self._closed, True
        if closed or self._worker is None:
            return
        if self._worker.is_current():
            # The garbage collector ran a finaliser of the program here: to wait for the loop would never end.
            self._worker.stop(None)
            return
        try:
            self._worker.submit(last).result()
        except (CancelledError, ManagerClosedError):
            pass  # stopped already, by the end of the program
        finally:
            self._worker.stop(None)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that may be given work when it is closed, and drops it.

    gRPC has one queue of events for all event loops of a process. Whichever loop comes first takes what there is and
    hands it to the loop that it is for. That one may be closed by then, with what its cancelled calls still were to
    be told; the error would be raised in the other loop, which has nothing to do with it.
    """

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self, context)


class _Worker:
    """The loop and its thread. Knows nothing of the portal, so that it does not keep it alive."""

    def __init__(self) -> None:
        try:
            self.loop = _Loop()
        except OSError as error:  # too many open files
            raise ManagerUnusableError(f"cannot make the event loop of a blocking manager: {error}") from error
        self.loop.set_exception_handler(_handle)
        self._stopping = asyncio.Event()
        self._ended = threading.Event()
        # A daemon, because interpreter exit waits for other threads before anything could stop them.
        self._thread = threading.Thread(target=self._serve, name="userservice-client", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # too many threads, or the interpreter is shutting down
            self.loop.close()
            raise ManagerUnusableError(f"cannot start the thread of a blocking manager: {error}") from error
        forks.loops.add(self.loop)

    def is_current(self) -> bool:
        """Returns whether this is called in the thread of the loop."""
        return self._thread is threading.current_thread()

    def submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Begins a coroutine on the loop. The future is cancelled when the loop ends before the coroutine.

        Raises:
            ManagerClosedError: If the loop has ended.
        """
        if self._ended.is_set():
            raise ManagerClosedError("the manager is closed")
        coroutine = work()
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        # Looked at again because it may have ended in between. The thread says so before its last turn: either that
        # turn finds what was posted, or this finds that it said so. A lock would not do, since a signal's handler can
        # close the manager in this very thread.
        if self._ended.is_set():
            self._thread.join()
            future.cancel()
            coroutine.close()  # does nothing if it was run
        return future

    def stop(self, timeout: float | None) -> None:
        """Stops the loop, cancelling what runs on it, and waits for the thread, at most so many seconds."""
        # In a forked child there is no thread to stop, and the loop's wake-up socket is the parent's.
        if forks.broken:
            return
        self.loop.call_soon_threadsafe(self._stopping.set)
        # The garbage collector may call this in any thread, even the loop's own.
        if not self.is_current():
            self._thread.join(timeout)

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                try:
                    runner.run(self._wait())
                finally:
                    self._ended.set()
                    # Begins what was posted until then; the runner's end cancels it, which ends the waiting futures.
                    runner.run(asyncio.sleep(0))
        finally:
            forks.loops.discard(self.loop)

    async def _wait(self) -> None:
        await self._stopping.wait()


def _handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # All event loops of a process share gRPC's wake-up socket. The ones that come too late find it empty, which gRPC
    # lets through as an error though nothing is wrong (grpc/grpc#25364).
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)
