"""Limits on how long a task may wait, watched together: one timer for all of them, not one each.

A timer for each call, set and cancelled again, was 4 % of the CPU of a single call, and one for each chunk as much of a
stream's.
"""

import asyncio
import math
from types import TracebackType
from typing import Self

_LOOK_SECONDS = 0.05  # how late a limit may be noticed


class TimeIsUpError(Exception):
    """A limit was reached."""


class Limits:
    """The limits in force in one event loop."""

    def __init__(self) -> None:
        self._running: set[Limit] = set()
        self._is_looking = False

    def start(self, limit: "Limit") -> None:
        """Watches a limit, until it is stopped."""
        self._running.add(limit)
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def stop(self, limit: "Limit") -> None:
        """Watches a limit no more."""
        self._running.discard(limit)

    def _look(self) -> None:
        if not self._running:
            self._is_looking = False
            return
        loop = asyncio.get_running_loop()
        loop.call_later(_LOOK_SECONDS, self._look)
        now = loop.time()
        for limit in [limit for limit in self._running if limit.due <= now]:
            self._running.discard(limit)
            limit.expire()


class Limit:
    """Cancels the task that entered it, after ``seconds``, and leaves the block with TimeIsUpError then.

    Attributes:
        due: when it ends, in the loop's time; may be put off.
    """

    __slots__ = ("_is_over", "_limits", "_task", "due", "seconds")

    def __init__(self, limits: Limits, seconds: float) -> None:
        self.seconds = seconds
        self._limits = limits
        self._is_over = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a coroutine runs in a task")
        self._task = task
        self.put_off()
        self._limits.start(self)
        return self

    def put_off(self) -> None:
        """Starts the time anew."""
        self.due = asyncio.get_running_loop().time() + self.seconds

    def rest(self) -> None:
        """Lets the time stand still until it is started anew."""
        self.due = math.inf

    def expire(self) -> None:
        """Called when it is due."""
        self._is_over = True
        self._task.cancel()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raises TimeIsUpError in the place of the cancellation that this limit caused, and of no other."""
        self._limits.stop(self)
        if self._is_over and not self._task.uncancel() and exc_type is asyncio.CancelledError:
            raise TimeIsUpError from exc
