"""Detects whether this process was forked while gRPC was in use: no call can work in such a process."""

from __future__ import annotations

import os
import threading
import weakref

from userservice.errors import ManagerUnusableError


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
        if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
            os.register_at_fork(before=self._before_fork, after_in_child=self._after_fork)

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

    def _after_fork(self) -> None:
        self.broken = self.broken or self._polling or bool(self.channels)
        # Another thread of the parent may hold the lock. That thread does not exist in the child, so the child needs a
        # new lock.
        self.starting = threading.RLock()


forks = Forks()
