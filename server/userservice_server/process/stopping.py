"""Stops a process on SIGTERM or SIGINT, within a time limit that no other code in the process can extend."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread

from userservice_server.observability.log_writer import add_line

STOP_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT))
BEYOND_GRACE_SECONDS = 1.0  # from the end of --grace to the end of the process
_NOTICE_SECONDS = 0.25  # time to write the log line about a forced exit; the log is written every 50 ms
# Signals within this time count as one stop, because one stop can cause two signals, for example SIGINT to the process
# group (Ctrl-C) and SIGTERM to the process.
_SAME_STOP_SECONDS = 1.0


class Stop:
    """Waits for stop signals in a separate thread; forces the process to exit when the time limit is over.

    The signals are blocked in all threads and received with ``sigwait``, so that neither a main thread that is blocked
    in a system call nor a busy event loop can delay the stop. The file descriptor becomes readable when a stop is
    requested.

    Args:
        limit: seconds from the first stop request to the forced exit.
        repeat_ends: whether a second signal, at least 1 s after the first one, forces the exit at once.
    """

    def __init__(self, limit: float, *, repeat_ends: bool = True) -> None:
        self._limit = limit
        self._repeat_ends = repeat_ends
        self._requests: SimpleQueue[int | None] = SimpleQueue()
        self._exit_code = 0
        self._deadline: float | None = None
        self._first_actions: list[Callable[[], object]] = []
        self._last_actions: list[Callable[[], object]] = []
        self._readable, self._writable = os.pipe()

    def start(self) -> None:
        """Starts to handle SIGTERM and SIGINT. The main thread must call this method before it starts other threads."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        for number in STOP_SIGNALS:  # multiprocessing briefly unblocks them when it starts its tracker
            signal.signal(number, lambda *_: self._requests.put(None))
        for task in (self._take_signals, self._enforce_limit):
            Thread(target=task, name="stop", daemon=True).start()

    def fileno(self) -> int:
        """Returns the descriptor that becomes readable when a stop is requested."""
        return self._readable

    @property
    def requested(self) -> bool:
        """Whether a stop has been requested."""
        return self._deadline is not None

    def request(self, exit_code: int) -> None:
        """Requests a stop without a signal; a forced exit then has this exit code."""
        self._exit_code = exit_code
        self._requests.put(exit_code)

    def remaining(self) -> float:
        """Returns the seconds until the forced exit, or the whole limit if no stop was requested."""
        return self._limit if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def at_request(self, action: Callable[[], object]) -> None:
        """Adds an action that runs when a stop is requested, in a separate thread; its errors are ignored."""
        self._first_actions.append(action)

    def before_forced_exit(self, action: Callable[[], object]) -> None:
        """Adds an action that runs before a forced exit. Its duration does not count towards the limit."""
        self._last_actions.append(action)

    def _take_signals(self) -> None:
        while True:
            signal.sigwait(STOP_SIGNALS)
            self._requests.put(None)

    def _enforce_limit(self) -> None:
        self._requests.get()
        first = time.monotonic()
        self._deadline = first + self._limit
        os.write(self._writable, b".")
        for action in self._first_actions:
            with suppress(Exception):
                action()
        message = "shutdown took too long; exiting now"
        while (left := self._deadline - _NOTICE_SECONDS - time.monotonic()) > 0:
            with suppress(Empty):
                is_signal = self._requests.get(timeout=left) is None
                if is_signal and self._repeat_ends and time.monotonic() - first > _SAME_STOP_SECONDS:
                    message = "second stop signal; exiting now"
                    break
        add_line(time.time(), "WARNING", "userservice", message, {})
        time.sleep(_NOTICE_SECONDS)
        for action in self._last_actions:
            with suppress(Exception):
                action()
        os._exit(self._exit_code)
