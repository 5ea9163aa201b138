"""The metrics of one worker process, in its slot of the shared memory."""

import os
import time
from collections.abc import Mapping

from userservice_server.observability.log_writer import dropped_lines
from userservice_server.observability.metrics import definitions
from userservice_server.observability.metrics.calls import CallMetrics
from userservice_server.observability.metrics.definitions import CODES, Metric
from userservice_server.observability.metrics.layout import Layout
from userservice_server.observability.metrics.store import StoreMetrics

_GAUGES = (
    definitions.STORE_UP,
    definitions.EVENT_LOOP_LAG,
    definitions.WATCH_LAG,
    definitions.USERS,
    definitions.SESSIONS,
    definitions.CERTIFICATE_EXPIRY,
)


class WorkerMetrics:
    """The metrics of this process. A new worker continues the counters of its slot and resets the gauges.

    Attributes:
        calls: counts calls.
        store: counts the events of the store.

    Args:
        layout: the places of the values.
        slot: the memory of the slot.
    """

    def __init__(self, layout: Layout, slot: memoryview) -> None:
        self._layout = layout
        self._values = slot[: layout.exemplars_start].cast("d")
        self.calls = CallMetrics(layout, self._values, slot[layout.exemplars_start :])
        self.store = StoreMetrics(layout, self._values)
        self._bases: dict[int, float] = {}
        self._reset()

    def _reset(self) -> None:
        values, layout = self._values, self._layout
        for metric in _GAUGES:
            values[layout.place(metric)] = 0
        for place in (layout.tick_due, layout.counted_at):
            values[place] = 0
        # Calls that an earlier process of this slot has not ended will never end.
        for position, method in enumerate(layout.methods):
            handled = layout.handled(position)
            ended = sum(values[handled : handled + len(CODES)])
            values[layout.abandoned + position] = values[layout.place(definitions.STARTED, *method.labels)] - ended
        values[layout.pid] = os.getpid()

    def show_loop(self, lag: float, next_due: float) -> None:
        """Sets the delay of the event loop, and the monotonic time at which its next sample is due."""
        self._values[self._layout.place(definitions.EVENT_LOOP_LAG)] = lag
        self._values[self._layout.tick_due] = next_due

    def show_watch_lag(self, seconds: float) -> None:
        """Sets the time for which the slowest watch has had changes to send."""
        self._values[self._layout.place(definitions.WATCH_LAG)] = seconds

    def show_store(self, users: int, sessions: int | None) -> None:
        """Sets the sizes of the store.

        Args:
            users: number of users.
            sessions: number of sessions; None: the number is not known yet.
        """
        self._values[self._layout.place(definitions.USERS)] = users
        self._values[self._layout.place(definitions.SESSIONS)] = -1 if sessions is None else sessions
        self._values[self._layout.counted_at] = time.time()

    def show_certificate(self, not_after: float) -> None:
        """Sets the time at which the certificate of the service expires."""
        self._values[self._layout.place(definitions.CERTIFICATE_EXPIRY)] = not_after

    def show_process(self, audit_lines_dropped: int, spans_dropped: int, reload_failures: Mapping[str, int]) -> None:
        """Updates the counters whose values are kept elsewhere in this process since its start."""
        self._continue(definitions.CPU_SECONDS, time.process_time())
        self._continue(definitions.LOG_LINES_DROPPED, dropped_lines())
        self._continue(definitions.AUDIT_LINES_DROPPED, audit_lines_dropped)
        self._continue(definitions.SPANS_DROPPED, spans_dropped)
        for (file,) in self._layout.series[definitions.RELOAD_FAILURES].rows:
            self._continue(definitions.RELOAD_FAILURES, reload_failures.get(file, 0), file)

    def _continue(self, metric: Metric, value: float, *labels: str) -> None:
        """Sets a counter of the slot to its value at the start of this process plus ``value``."""
        place = self._layout.place(metric, *labels)
        if place not in self._bases:
            self._bases[place] = self._values[place]
        self._values[place] = self._bases[place] + value
