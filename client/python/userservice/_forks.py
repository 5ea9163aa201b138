"""What a fork does to gRPC, and so to every manager."""

from __future__ import annotations

import os
import threading

from userservice.errors import ManagerUnusableError


class Forks:
    """What a fork has to know of this process, and a forked child of its parent.

    gRPC's asyncio half waits for events in one thread for the whole process. A child has its state without the
    thread: calls there would wait for ever, past every deadline, so they are refused.

    Attributes:
        loops: those with gRPC in them that blocking managers run.
        broken: whether this is such a child.
        starting: held while a portal starts.
    """

    def __init__(self) -> None:
        # Reentrant: a signal's handler can close a manager in the middle of another's start.
        self.starting = threading.RLock()
        self.loops: set[object] = set()
        self.broken = False
        self._polling = False
        if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
            os.register_at_fork(before=self._before_fork, after_in_child=self._after_fork)

    def refuse(self) -> None:
        """Raises ManagerUnusableError in a child in which no call would ever end."""
        if self.broken:
            raise ManagerUnusableError(
                "a manager, or other asyncio gRPC, was used before the process forked: close managers, once their "
                "calls have ended, before forking, or start processes by spawn"
            )

    def _before_fork(self) -> None:
        # gRPC's thread outlives our loops if they were closed while calls ran, and asyncio managers have it too. It
        # has no public name; were it called otherwise one day, open managers would still be known by their loops.
        self._polling = any(thread.name.endswith("(_poll_wrapper)") for thread in threading.enumerate())

    def _after_fork(self) -> None:
        self.broken = self.broken or self._polling or bool(self.loops)
        # Another thread may have held it; that thread is not here.
        self.starting = threading.RLock()


forks = Forks()
