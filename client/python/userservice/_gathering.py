"""Gathers concurrent requests into shared calls. This is the asyncio version.

`_sync_gathering.py` is the blocking version with the same names. `_shared_reads.py` uses the asyncio version; its
generated copy in `_sync/` uses the blocking version.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from itertools import chain
from typing import Generic, TypeVar

from userservice._gathering_limits import MOST_NAMES, MOST_RUNNING, PATIENCE

OutcomeT = TypeVar("OutcomeT")

_ROUNDING = 0.0005
"""Seconds by which the timer may fire before a deadline, because timers of event loops have a resolution of 1 ms."""


class _Request(Generic[OutcomeT]):
    """A request that waits for its outcome. An outcome of None means that the deadline has passed."""

    __slots__ = ("call", "context", "deadline", "future", "name")

    def __init__(self, name: str, deadline: float) -> None:
        self.name = name
        self.deadline = deadline
        self.future: asyncio.Future[OutcomeT | None] = asyncio.get_running_loop().create_future()
        self.call: _Call[OutcomeT] | None = None
        self.context = copy_context()


class _Call(Generic[OutcomeT]):
    """A running call and its requests."""

    __slots__ = ("left", "occupies", "requests", "task")

    def __init__(self, requests: list[_Request[OutcomeT]], task: asyncio.Task[object] | None) -> None:
        self.requests = requests
        self.task = task
        self.left = 0
        self.occupies = True

    def leave(self) -> None:
        """Counts a caller that has stopped waiting. Cancels the call if all its callers have stopped waiting."""
        self.left += 1
        if self.left == len(self.requests) and self.task is not None:
            self.task.cancel()


class Gathering(Generic[OutcomeT]):
    """Sends concurrent requests for names in shared calls.

    A request never joins a call that was already sent, so its outcome is not older than the request. If no call runs, a
    call is sent at the next turn of the event loop, with all requests of the current turn. While a call runs, further
    requests wait until the call ends, but at most `PATIENCE` seconds. If the waiting requests fill a call, they are
    sent without waiting.

    Args:
        send: Makes one call for several names, with a timeout in seconds; returns the outcome of each name.
    """

    def __init__(self, send: Callable[[Sequence[str], float], Awaitable[Mapping[str, OutcomeT]]]) -> None:
        self._send = send
        self._waiting: deque[_Request[OutcomeT]] = deque()
        self._calls: set[_Call[OutcomeT]] = set()
        self._running = 0
        self._starting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    async def outcome(self, name: str, deadline: float) -> OutcomeT:
        """Returns the outcome for a name.

        Cancelling one request has no effect on other requests. If all requests of a call are cancelled or have reached
        their deadlines, the call is cancelled.

        Raises:
            TimeoutError: If there is no outcome before the deadline, which is a time of `time.monotonic`.
        """
        request: _Request[OutcomeT] = _Request(name, deadline)
        self._waiting.append(request)
        if self._timer is None or deadline < self._timer_at:
            self._expire_at(deadline)
        self._start()
        try:
            outcome = await request.future
        except asyncio.CancelledError:
            if request.call is not None:
                request.call.leave()
            raise
        if outcome is None:
            raise TimeoutError
        return outcome

    def _start(self) -> None:
        """Starts the next call if the waiting requests fill it, or fewer than `MOST_RUNNING` calls count as running."""
        if not self._waiting or self._starting is not None:
            return
        if self._running < MOST_RUNNING or len(self._waiting) >= MOST_NAMES:
            # The context of one of its requests assigns the call to the trace of this request. The present context can
            # be that of an earlier call.
            context = self._waiting[0].context
            self._starting = asyncio.get_running_loop().create_task(self._run(), context=context)
            # The event loop keeps only weak references to its tasks.
            self._tasks.add(self._starting)
            self._starting.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        """Makes one call for the requests that are waiting."""
        self._starting = None
        call = self._take()
        if not call.requests:
            self._stop_timer()
            return
        self._calls.add(call)
        self._running += 1
        self._start()
        patience = asyncio.get_running_loop().call_later(PATIENCE, self._release, call)
        try:
            timeout = max(request.deadline for request in call.requests) - time.monotonic()
            outcomes = await self._send(list({request.name: None for request in call.requests}), max(0.0, timeout))
            for request in call.requests:
                if not request.future.done():
                    request.future.set_result(outcomes[request.name])
        except BaseException as error:
            _fail(call.requests, error)
            if not isinstance(error, Exception):
                raise
        finally:
            patience.cancel()
            self._calls.discard(call)
            self._release(call)
            self._stop_timer()

    def _take(self) -> _Call[OutcomeT]:
        call: _Call[OutcomeT] = _Call([], asyncio.current_task())
        while self._waiting and len(call.requests) < MOST_NAMES:
            request = self._waiting.popleft()
            if not request.future.done():
                request.call = call
                call.requests.append(request)
        return call

    def _release(self, call: _Call[OutcomeT]) -> None:
        """Stops counting a call that has ended or has run for `PATIENCE` seconds, and starts the next call."""
        if call.occupies:
            call.occupies = False
            self._running -= 1
            self._start()

    def _stop_timer(self) -> None:
        """Stops the timer if there are no requests, because a running timer keeps the manager in memory."""
        if self._timer is not None and not self._calls and not self._waiting:
            self._timer.cancel()
            self._timer = None

    def _expire_at(self, deadline: float) -> None:
        """Sets the timer to the earliest deadline. One timer for all requests costs less than one timer each."""
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, deadline - time.monotonic())
        self._timer, self._timer_at = asyncio.get_running_loop().call_later(delay, self._expire), deadline

    def _expire(self) -> None:
        """Ends the requests whose deadline has passed, and sets the timer again for the others."""
        self._timer = None
        passed = time.monotonic() + _ROUNDING
        deadlines = []
        for request in [*chain(self._waiting, *(call.requests for call in self._calls))]:
            if request.future.done():
                continue
            if request.deadline > passed:
                deadlines.append(request.deadline)
                continue
            request.future.set_result(None)
            if request.call is not None:
                request.call.leave()
        if deadlines:
            self._expire_at(min(deadlines))


def _fail(requests: Sequence[_Request[OutcomeT]], error: BaseException) -> None:
    """Ends the requests of a call that had an unexpected error or was cancelled when the event loop ended."""
    for request in requests:
        if request.future.done():
            continue
        if isinstance(error, Exception):
            request.future.set_exception(error)
        else:
            request.future.cancel()
