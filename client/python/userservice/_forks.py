"""Detects whether this process was forked while gRPC was in use: no call can work in such a process."""

from __future__ import annotations

import os
import threading
import time
import weakref
from pathlib import Path

from userservice.errors import ManagerUnusableError

_THREADS_OF_GRPC = ("event_engine", "lifeguard", "grpc_")
"""How the names of the threads of gRPC's core begin."""

_STOP_SECONDS = 0.5
_POLL_SECONDS = 0.001


def _wait_for_threads_of_grpc() -> None:
    """Waits until gRPC has stopped its threads, which takes some milliseconds after the last channel was closed.

    A child that is forked earlier would wait for these threads forever when it opens a channel, because the child does
    not have them. The wait is limited, because another library can use gRPC too.
    """
    end = time.monotonic() + _STOP_SECONDS
    while _has_threads_of_grpc() and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)


def _has_threads_of_grpc() -> bool:
    for thread in Path("/proc/self/task").glob("*/comm"):  # empty on systems other than Linux
        try:
            name = thread.read_text()
        except OSError:  # the thread has ended
            continue
        if name.startswith(_THREADS_OF_GRPC):
            return True
    return False


class Forks:
    """The state of this process that decides whether managers work in a forked child.

    A forked child has the state of gRPC, but not its threads: in the child, calls of `grpc.aio` would wait forever,
    even after their deadline, and a channel of the parent would use the parent's connection. Managers therefore reject
    all calls in the child.

    Attributes:
        channels: The open channels of blocking managers.
        broken: Whether this process was forked while gRPC was in use.
        starting: A lock, held while a blocking manager opens or closes its channels.
    """

    def __init__(self) -> None:
        # Reentrant, because a signal handler can close one manager while another manager opens its channels.
        self.starting = threading.RLock()
        # Weak references, so that a channel without other references closes its connection.
        self.channels: weakref.WeakSet[object] = weakref.WeakSet()
        self.broken = False
        self._polling = False
        self._was_used = False  # since the last wait for the threads of gRPC
        if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
            os.register_at_fork(before=self._before_fork, after_in_child=self._after_fork)

    def add(self, channel: object) -> None:
        """Adds an open channel of a blocking manager."""
        self.channels.add(channel)
        self._was_used = True

    def refuse(self) -> None:
        """Raises an error in a child in which no call can work.

        Raises:
            ManagerUnusableError: If the process was forked while gRPC was in use.
        """
        if self.broken:
            raise ManagerUnusableError(
                "a manager or other asyncio gRPC was used before the process forked; before forking, wait for the end "
                "of all calls and close all managers, or start processes with the method spawn"
            )

    def _before_fork(self) -> None:
        # The thread of grpc.aio has no public name. It continues after the last asyncio manager was closed.
        self._polling = any(thread.name.endswith("(_poll_wrapper)") for thread in threading.enumerate())
        if self._was_used and not self._polling and not self.channels:
            _wait_for_threads_of_grpc()
            self._was_used = False

    def _after_fork(self) -> None:
        self.broken = self.broken or self._polling or bool(self.channels)
        # Another thread of the parent may hold the lock. That thread does not exist in the child, so the child needs a
        # new lock.
        self.starting = threading.RLock()


forks = Forks()
