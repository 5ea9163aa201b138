"""Deadlines of tasks, which one timer checks.

A separate timer for each call took 4 % of the CPU time of a single call, because it was set and cancelled; a timer for
each chunk took the same share of a stream.
"""

import asyncio
import math
from types import TracebackType
from typing import Self

_CHECK_SECONDS = 0.05  # a deadline is noticed at most this late


class DeadlinePassedError(Exception):
    """A deadline passed."""


class Deadlines:
    """Checks the running deadlines of one event loop."""

    def __init__(self) -> None:
        self._running: set[Deadline] = set()
        self._has_timer = False

    def start(self, deadline: "Deadline") -> None:
        """Checks a deadline until ``stop`` is called."""
        self._running.add(deadline)
        if not self._has_timer:
            self._has_timer = True
            asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check)

    def stop(self, deadline: "Deadline") -> None:
        """Stops checking a deadline."""
        self._running.discard(deadline)

    def _check(self) -> None:
        if not self._running:
            self._has_timer = False
            return
        loop = asyncio.get_running_loop()
        loop.call_later(_CHECK_SECONDS, self._check)
        now = loop.time()
        for deadline in [deadline for deadline in self._running if deadline.due <= now]:
            self._running.discard(deadline)
            deadline.expire()


class Deadline:
    """A ``with`` block that may take ``seconds``. After that it cancels its task and raises DeadlinePassedError.

    Attributes:
        due: when the deadline passes, in the time of the event loop.
    """

    __slots__ = ("_deadlines", "_has_passed", "_task", "due", "seconds")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self.seconds = seconds
        self._deadlines = deadlines
        self._has_passed = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a coroutine runs in a task")
        self._task = task
        self.restart()
        self._deadlines.start(self)
        return self

    def restart(self) -> None:
        """Restarts the deadline with its full time."""
        self.due = asyncio.get_running_loop().time() + self.seconds

    def pause(self) -> None:
        """Suspends the deadline until ``restart``."""
        self.due = math.inf

    def expire(self) -> None:
        """Cancels the task; called when the deadline is due."""
        self._has_passed = True
        self._task.cancel()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raises DeadlinePassedError instead of a cancellation that this deadline caused; keeps other cancellations."""
        self._deadlines.stop(self)
        if self._has_passed and not self._task.uncancel() and exc_type is asyncio.CancelledError:
            raise DeadlinePassedError from exc
