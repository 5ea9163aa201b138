"""Counts the events of the store (see store/events.py) in the worker's slot of the shared memory."""

from bisect import bisect_left

from userservice_server.observability.metrics import definitions
from userservice_server.observability.metrics.definitions import BATCH_SIZE, STORE_SECONDS
from userservice_server.observability.metrics.layout import Layout, Values


class StoreMetrics:
    """Receives the events of the store. Only the thread of the event loop may use it."""

    def __init__(self, layout: Layout, values: Values) -> None:
        self._values = values
        seconds = layout.series[STORE_SECONDS]
        self._seconds = {script: seconds.of(script) for (script,) in seconds.rows}
        self._sum = len(STORE_SECONDS.buckets) + 1
        self._batches = layout.place(BATCH_SIZE)
        self._reconnections = layout.place(definitions.RECONNECTIONS)
        self._retries = layout.place(definitions.UPDATE_RETRIES)
        self._replays = layout.place(definitions.REPLAYS)
        self._up = layout.place(definitions.STORE_UP)

    def replied(self, script: str, seconds: float) -> None:
        """Counts a reply to a script, or to the read of a range."""
        values, start = self._values, self._seconds[script]
        values[start + bisect_left(STORE_SECONDS.buckets, seconds)] += 1
        values[start + self._sum] += seconds

    def failed(self, script: str, seconds: float, error: BaseException) -> None:
        """Counts nothing: the histogram contains only answered scripts."""

    def batch_sent(self, commands: int) -> None:
        """Counts a batch of commands."""
        values = self._values
        values[self._batches + bisect_left(BATCH_SIZE.buckets, commands)] += 1
        values[self._batches + len(BATCH_SIZE.buckets) + 1] += commands

    def reconnected(self) -> None:
        """Counts a connection that replaces another one."""
        self._values[self._reconnections] += 1

    def conflicted(self) -> None:
        """Counts a compare-and-set that found another record than expected."""
        self._values[self._retries] += 1

    def replayed(self) -> None:
        """Counts a write that was answered from an idempotency record."""
        self._values[self._replays] += 1

    def availability_changed(self, *, is_up: bool) -> None:
        """Sets whether the store is available."""
        self._values[self._up] = is_up
