"""Ends blocking reads of streams at their deadlines: grpcio's blocking streams have no timeout for one message."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from userservice.errors import ManagerUnusableError


class Alarm:
    """The deadline of the reads of one stream.

    Args:
        ring: A function that ends a blocked read. The thread of the watchdog calls it at the deadline.

    Attributes:
        deadline: The time of `time.monotonic` at which the alarm rings; infinite between two reads.
        timeout: The timeout of the latest read.
        rang: Whether the alarm rang.
    """

    def __init__(self, ring: Callable[[], object]) -> None:
        self.ring = ring
        self.deadline = math.inf
        self.timeout = math.inf
        self.rang = False

    def start(self, deadline: float, timeout: float) -> None:
        """Sets the deadline of a read.

        Args:
            deadline: The time of `time.monotonic` at which the alarm rings, unless `pause` or `stop` is called before.
            timeout: The seconds from now to the deadline.

        Raises:
            ManagerUnusableError: If the thread of the watchdog cannot start.
        """
        self.timeout = timeout
        self.deadline = deadline
        _watchdog.notice(self)

    def pause(self) -> None:
        """Removes the deadline until the next read."""
        self.deadline = math.inf

    def stop(self) -> None:
        """Removes the alarm. Uses no lock, because the garbage collector can call this method in any thread."""
        self.deadline = math.inf
        _watchdog.alarms.discard(self)


class _Watchdog:
    """The thread that rings alarms. All streams of the process share one thread, which the first stream starts.

    Waking the thread for each read would be expensive, so a read usually only sets the two attributes of its alarm. The
    thread sleeps at most for the timeout of the latest read of each alarm, also of a paused alarm. Therefore it wakes
    up before the deadline of a later read that has the same timeout.

    Attributes:
        alarms: The alarms of all open streams.
    """

    def __init__(self) -> None:
        self.alarms: set[Alarm] = set()
        self._starting = threading.RLock()
        self._thread: threading.Thread | None = None
        # A SimpleQueue, because it is reentrant: a finaliser that reads a stream may run inside `put`.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._wakes_at = math.inf

    def notice(self, alarm: Alarm) -> None:
        """Wakes the thread if the deadline of the alarm is before the time at which the thread wakes up."""
        if alarm not in self.alarms:
            self._start()
            self.alarms.add(alarm)
        if alarm.deadline < self._wakes_at:
            self._wake.put(None)

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None:
                return
            # A daemon thread, because the interpreter waits for all other threads when it exits.
            thread = threading.Thread(target=self._serve, name="userservice-deadlines", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # too many threads, or the interpreter is shutting down
                raise ManagerUnusableError(f"cannot start the thread for deadlines of streams: {error}") from error
            self._thread = thread

    def _serve(self) -> None:
        while True:
            # While this time is infinite, a read that starts during `_ring` wakes the thread for another check.
            self._wakes_at = math.inf
            due = self._ring()
            self._wakes_at = due
            try:
                self._wake.get(timeout=None if due == math.inf else max(0.0, due - time.monotonic()))
            except Empty:
                continue

    def _ring(self) -> float:
        """Rings the alarms whose deadline has passed. Returns the time of the next check."""
        now, due = time.monotonic(), math.inf
        for alarm in tuple(self.alarms):
            if alarm.deadline <= now:
                alarm.rang = True
                alarm.pause()
                alarm.ring()
            due = min(due, alarm.deadline, now + alarm.timeout)
        return due


_watchdog = _Watchdog()


def _after_fork() -> None:
    global _watchdog  # noqa: PLW0603 - the child does not have the thread of the parent, and locks may be held
    _watchdog = _Watchdog()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)
