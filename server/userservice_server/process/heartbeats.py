"""The times at which the event loop of each worker last ran, in memory that the supervisor and all workers share."""

import ctypes
import time
from multiprocessing.context import SpawnContext

BLOCKED_SECONDS = 2.0
"""An event loop that has not run for this long counts as blocked."""

_START_SECONDS = 60.0  # limit for the start of a worker until its event loop runs


class Heartbeats:
    """The last heartbeat of each worker. All methods can be called in every process.

    The times are those of the monotonic clock, which is the same for all processes of a machine.

    Args:
        context: the context that starts the workers.
        workers: number of workers.
    """

    def __init__(self, context: SpawnContext, workers: int) -> None:
        self._times = context.RawArray(ctypes.c_double, workers)

    def expect(self, slot: int) -> None:
        """Counts a worker that is starting as running, for a limited time."""
        self._times[slot] = time.monotonic() + _START_SECONDS

    def beat(self, slot: int) -> None:
        """Records that the event loop of a worker runs now."""
        self._times[slot] = time.monotonic()

    def are_recent(self, seconds: float = BLOCKED_SECONDS) -> bool:
        """Returns whether the event loops of all workers ran within the last ``seconds``."""
        oldest: float = min(self._times)
        return time.monotonic() - oldest <= seconds
