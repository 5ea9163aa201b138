"""Measures how late the event loop runs its callbacks, and reports several times a second that it runs."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from userservice_server.process.heartbeats import BLOCKED_SECONDS

INTERVAL = 0.25  # seconds
_WINDOW = 15.0  # seconds; a scrape of the metrics every 15 s misses no lag

logger = logging.getLogger("userservice")


class LoopMonitor:
    """Runs its actions in the event loop four times a second. While the loop is blocked, no action runs.

    Args:
        actions: called each time.
    """

    def __init__(self, *actions: Callable[[], object]) -> None:
        self._actions = list(actions)
        self._lags: deque[tuple[float, float]] = deque()  # time and lag
        self._due = 0.0

    def start(self) -> None:
        """Starts to monitor the running event loop."""
        self._due = time.monotonic()
        self._run()

    def add(self, action: Callable[[], object]) -> None:
        """Adds an action."""
        self._actions.append(action)

    def largest_lag(self) -> float:
        """Returns the largest lag of the last 15 s, in seconds."""
        self._forget(time.monotonic())
        return max((lag for _, lag in self._lags), default=0.0)

    def _run(self) -> None:
        now = time.monotonic()
        lag = max(0.0, now - self._due)
        self._forget(now)
        self._lags.append((now, lag))
        if lag >= BLOCKED_SECONDS:
            logger.warning("the event loop was blocked; no call was answered", extra={"seconds": round(lag, 3)})
        for action in self._actions:
            action()
        self._due = now + INTERVAL
        asyncio.get_running_loop().call_later(INTERVAL, self._run)

    def _forget(self, now: float) -> None:
        while self._lags and now - self._lags[0][0] > _WINDOW:
            self._lags.popleft()
