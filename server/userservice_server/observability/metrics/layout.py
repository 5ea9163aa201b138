"""Computes the place of each value of a worker in the memory that the worker shares with the supervisor.

All label values are known at the start, so every counter and every bucket has a fixed place. The supervisor and its
workers run the same code and compute the same layout.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from userservice_server.observability.metrics import definitions
from userservice_server.observability.metrics.definitions import CODES, HANDLING_SECONDS, Kind, Metric

_VALUE_BYTES = 8  # a float64, which represents whole numbers up to 2^53 exactly
_CACHE_LINE = 64  # so that two workers never write to the same line
Values: TypeAlias = "memoryview[float]"
"""The values of a slot, or a copy of them."""

EXEMPLAR = struct.Struct("=16sdd")  # trace id, seconds, Unix time


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a gRPC service, with the properties from which its labels are computed.

    Attributes:
        service: full name of the service.
        name: short name.
        streams_requests: whether its caller sends a stream.
        streams_responses: whether the server sends a stream.
        is_own: whether the method belongs to a service of this project, not to health or reflection.
    """

    service: str
    name: str
    streams_requests: bool = False
    streams_responses: bool = False
    is_own: bool = False

    @property
    def labels(self) -> tuple[str, str, str]:
        """The values of the labels of a method."""
        shapes = {
            (False, False): "unary",
            (True, False): "client_stream",
            (False, True): "server_stream",
            (True, True): "bidi_stream",
        }
        return shapes[self.streams_requests, self.streams_responses], self.service, self.name

    @property
    def is_watch(self) -> bool:
        """Whether a call watches changes."""
        return self.is_own and self.name == "WatchUsers"

    @property
    def is_own_stream(self) -> bool:
        """Whether a call counts as a running stream."""
        return self.is_own and (self.streams_requests or self.streams_responses)


UNKNOWN = Method("unknown", "unknown")  # all methods that the service does not have


@dataclass(frozen=True, slots=True)
class Series:
    """The places of one metric's values.

    Attributes:
        start: place of the first value.
        width: values for each combination of label values: 1, or for a histogram the number of its buckets, +Inf
            included, and its sum.
        rows: the combinations of label values.
    """

    start: int
    width: int
    rows: tuple[tuple[str, ...], ...]

    def of(self, *labels: str) -> int:
        """Returns the first place of these label values."""
        return self.start + self.rows.index(labels) * self.width


class Layout:
    """The places of all values in the slot of a worker.

    Args:
        methods: all methods of the server; UNKNOWN is added.
        reasons: all reasons of errors.
        scripts: the scripts of the store that are measured.
        files: the files that the service reloads.

    Attributes:
        methods: the methods, UNKNOWN included.
        series: the places of each metric that workers count or set.
        pid: place of the worker's process id; the value is 0 before a worker uses the slot.
        tick_due: place of the monotonic time at which the event loop should take the next sample; 0 before the first.
        counted_at: place of the Unix time at which the sizes of the store were last read; 0 before the first reading.
        abandoned: first place of the numbers, by method, of calls that were lost with an earlier process of this slot.
        size: number of values.
        slot_bytes: size of a slot.
    """

    def __init__(
        self, methods: Sequence[Method], reasons: Sequence[str], scripts: Sequence[str], files: Sequence[str]
    ) -> None:
        self.methods = (*methods, UNKNOWN)
        self.series: dict[Metric, Series] = {}
        self.size = 0
        of_method = [method.labels for method in self.methods]
        self._add(definitions.STARTED, of_method)
        self._add(definitions.HANDLED, [(*labels, code) for labels in of_method for code in CODES])
        self._add(definitions.MESSAGES_RECEIVED, of_method)
        self._add(definitions.MESSAGES_SENT, of_method)
        self._add(HANDLING_SECONDS, of_method)
        self._add(definitions.REJECTED_CALLS, [(reason,) for reason in reasons])
        self._add(definitions.STORE_SECONDS, [(script,) for script in scripts])
        self._add(definitions.RELOAD_FAILURES, [(file,) for file in files])
        for metric in _WITHOUT_LABELS:
            self._add(metric, [()])
        self.abandoned = self._take(len(self.methods))
        self.pid, self.tick_due, self.counted_at = (self._take(1) for _ in range(3))
        self.exemplars_start = self.size * _VALUE_BYTES
        exemplars = len(self.methods) * (len(HANDLING_SECONDS.buckets) + 1) * EXEMPLAR.size
        self.slot_bytes = -(-(self.exemplars_start + exemplars) // _CACHE_LINE) * _CACHE_LINE

    def _take(self, count: int) -> int:
        start = self.size
        self.size += count
        return start

    def _add(self, metric: Metric, rows: Sequence[tuple[str, ...]]) -> None:
        width = len(metric.buckets) + 2 if metric.kind is Kind.HISTOGRAM else 1
        self.series[metric] = Series(self._take(width * len(rows)), width, tuple(rows))

    def place(self, metric: Metric, *labels: str) -> int:
        """Returns the first place of a metric's value with these label values."""
        return self.series[metric].of(*labels)

    def handled(self, method: int) -> int:
        """Returns the place of the number of calls of a method, given by its position, that ended with OK."""
        return self.series[definitions.HANDLED].start + method * len(CODES)

    def exemplar(self, method: int, bucket: int) -> int:
        """Returns the offset, in the exemplars, of the exemplar of a method's bucket."""
        return (method * (len(HANDLING_SECONDS.buckets) + 1) + bucket) * EXEMPLAR.size


# Also gauges that have the label `worker` in a scrape: a slot belongs to one worker.
_WITHOUT_LABELS = (
    definitions.STREAMED_USERS,
    definitions.STALLED_STREAMS,
    definitions.WATCH_LAG,
    definitions.STORE_UP,
    definitions.BATCH_SIZE,
    definitions.RECONNECTIONS,
    definitions.UPDATE_RETRIES,
    definitions.REPLAYS,
    definitions.USERS,
    definitions.SESSIONS,
    definitions.EVENT_LOOP_LAG,
    definitions.LOG_LINES_DROPPED,
    definitions.AUDIT_LINES_DROPPED,
    definitions.SPANS_DROPPED,
    definitions.CERTIFICATE_EXPIRY,
    definitions.WORKER_RESTARTS,
    definitions.CPU_SECONDS,
)
