"""Merges the metrics of all workers, and encodes them for Prometheus and OpenMetrics."""

import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import accumulate
from threading import Lock

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from userservice_server.observability.log_writer import dropped_lines
from userservice_server.observability.metrics import definitions
from userservice_server.observability.metrics.definitions import CODES, HANDLING_SECONDS, Kind, Metric
from userservice_server.observability.metrics.layout import EXEMPLAR, Layout
from userservice_server.observability.metrics.memory import MetricsMemory

_STALE_SECONDS = 60.0  # after which the sizes of the store are no longer shown
SUPERVISOR = "supervisor"


class _Slot:
    """The values of a slot at one moment."""

    def __init__(self, number: int, layout: Layout, memory: memoryview) -> None:
        content = bytes(memory)
        self.label = str(number)
        self.values = memoryview(content)[: layout.exemplars_start].cast("d")
        self.exemplars = content[layout.exemplars_start :]
        self._layout = layout

    @property
    def was_used(self) -> bool:
        """Whether the slot has belonged to a worker."""
        return self.values[self._layout.pid] > 0

    @property
    def pid(self) -> int:
        """The id of the worker's process; 0 if it is not running."""
        pid = int(self.values[self._layout.pid])
        try:
            if pid:
                os.kill(pid, 0)
        except OSError:
            return 0
        return pid

    def value(self, metric: Metric) -> float:
        return float(self.values[self._layout.place(metric)])


class Exposition(Collector):
    """Collects the metrics of all slots.

    Args:
        layout: the places of the values in a slot.
        memory: the slots, of which the last one belongs to the supervisor.
        is_supervisor: whether this process is the supervisor of the workers; False: it is the only worker.
    """

    def __init__(self, layout: Layout, memory: MetricsMemory, *, is_supervisor: bool) -> None:
        self._layout = layout
        self._memory = memory
        self._is_supervisor = is_supervisor
        self._build_info = _build_info()  # read once, because an upgrade of the installed package replaces these files
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._rendering = Lock()  # one scrape at a time, so that concurrent scrapes do not delay calls (GIL)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Returns a scrape and its content type, in the format that the header Accept prefers."""
        encode, content_type = choose_encoder(accept)
        with self._rendering:
            return encode(self._registry), content_type

    def collect(self) -> Iterator[Family]:
        """Yields all metrics that have a value."""
        slots = [_Slot(number, self._layout, self._memory.slot(number)) for number in range(self._memory.slots)]
        running = [(slot, pid) for slot in slots[:-1] if (pid := slot.pid)]
        totals = _Totals(self._layout, slots)
        if self._is_supervisor:
            totals.add(definitions.LOG_LINES_DROPPED, dropped_lines())
        yield from totals.families()
        yield from self._gauges([slot for slot, _ in running])
        yield from self._store([slot for slot, _ in running])
        yield from self._certificate([slot for slot, _ in running])
        yield self._build_info
        yield self._cpu([slot for slot in slots if slot.was_used])
        processes = [(slot.label, pid) for slot, pid in running]
        if self._is_supervisor:
            processes.append((SUPERVISOR, os.getpid()))
        yield from _processes(processes)

    def _cpu(self, slots: Sequence[_Slot]) -> Family:
        """Returns the CPU time of all slots, also of workers that have exited, because a counter must not disappear."""
        family = _counter(definitions.CPU_SECONDS)
        for slot in slots:
            family.add_metric([slot.label], slot.value(definitions.CPU_SECONDS))
        if self._is_supervisor:
            family.add_metric([SUPERVISOR], time.process_time())
        return family

    def _gauges(self, slots: Sequence[_Slot]) -> Iterator[Family]:
        in_progress, streams = _gauge(definitions.CALLS_IN_PROGRESS), _gauge(definitions.STREAMS)
        watches, watch_lag = _gauge(definitions.WATCHES), _gauge(definitions.WATCH_LAG)
        up, lag = _gauge(definitions.STORE_UP), _gauge(definitions.EVENT_LOOP_LAG)
        for slot in slots:
            running = self._running(slot)
            own = [calls for calls, method in zip(running, self._layout.methods, strict=True) if method.is_own_stream]
            watching = [calls for calls, method in zip(running, self._layout.methods, strict=True) if method.is_watch]
            in_progress.add_metric([slot.label], sum(running))
            streams.add_metric([slot.label], sum(own))
            watches.add_metric([slot.label], sum(watching))
            watch_lag.add_metric([slot.label], slot.value(definitions.WATCH_LAG))
            up.add_metric([slot.label], slot.value(definitions.STORE_UP))
            due = slot.values[self._layout.tick_due]
            overdue = time.monotonic() - due if due else 0.0  # a blocked event loop cannot measure its lag
            lag.add_metric([slot.label], max(slot.value(definitions.EVENT_LOOP_LAG), overdue))
        yield from (in_progress, streams, watches, watch_lag, up, lag)

    def _running(self, slot: _Slot) -> list[float]:
        """Returns the number of running calls of each method."""
        layout, values = self._layout, slot.values
        started = layout.series[definitions.STARTED].start
        running = []
        for position in range(len(layout.methods)):
            handled = layout.handled(position)
            ended = sum(values[handled : handled + len(CODES)]) + values[layout.abandoned + position]
            running.append(max(0.0, values[started + position] - ended))
        return running

    def _store(self, slots: Sequence[_Slot]) -> Iterator[Family]:
        newest = max(slots, key=lambda slot: slot.values[self._layout.counted_at], default=None)
        if newest is None or time.time() - newest.values[self._layout.counted_at] > _STALE_SECONDS:
            return
        for metric in (definitions.USERS, definitions.SESSIONS):
            if (value := newest.value(metric)) >= 0:
                family = _gauge(metric)
                family.add_metric([], value)
                yield family

    def _certificate(self, slots: Sequence[_Slot]) -> Iterator[Family]:
        times = [expiry for slot in slots if (expiry := slot.value(definitions.CERTIFICATE_EXPIRY))]
        if times:
            family = _gauge(definitions.CERTIFICATE_EXPIRY)
            family.add_metric([], min(times))
            yield family


class _Totals:
    """The counters and histograms, summed over all slots."""

    def __init__(self, layout: Layout, slots: Sequence[_Slot]) -> None:
        self._layout = layout
        self._slots = slots
        self._values: list[float] = list(map(sum, zip(*(slot.values for slot in slots), strict=True)))
        self._derive()

    def _derive(self) -> None:
        """Adds the numbers of unary requests, one for each call, and of unary responses, one for each call with OK."""
        places = (definitions.STARTED, definitions.MESSAGES_RECEIVED, definitions.MESSAGES_SENT)
        started, received, sent = (self._layout.series[metric].start for metric in places)
        for position, method in enumerate(self._layout.methods[:-1]):  # a request of an unknown method is not read
            if not method.streams_requests:
                self._values[received + position] += self._values[started + position]
            if not method.streams_responses:
                self._values[sent + position] += self._values[self._layout.handled(position)]

    def add(self, metric: Metric, value: float) -> None:
        """Adds to a counter."""
        self._values[self._layout.place(metric)] += value

    def families(self) -> Iterator[Family]:
        """Yields all counters and histograms."""
        for metric, series in self._layout.series.items():
            if metric.kind is Kind.COUNTER and metric is not definitions.CPU_SECONDS:
                counter = _counter(metric)
                for row, labels in enumerate(series.rows):
                    counter.add_metric(labels, self._values[series.start + row])
                yield counter
            elif metric.kind is Kind.HISTOGRAM:
                histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels, unit=metric.unit)
                for row, labels in enumerate(series.rows):
                    *buckets, seconds = self._values[series.start + row * series.width :][: series.width]
                    histogram.add_metric(labels, self._buckets(metric, row, buckets), seconds)
                yield histogram

    def _buckets(
        self, metric: Metric, row: int, counts: Sequence[float]
    ) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for number, (bound, total) in enumerate(zip(bounds, accumulate(counts), strict=True)):
            exemplar = self._exemplar(row, number) if metric is HANDLING_SECONDS and counts[number] else None
            buckets.append((bound, total, exemplar) if exemplar else (bound, total))
        return buckets

    def _exemplar(self, method: int, bucket: int) -> Exemplar | None:
        """Returns the newest exemplar of a bucket."""
        place = self._layout.exemplar(method, bucket)
        found = [EXEMPLAR.unpack_from(slot.exemplars, place) for slot in self._slots]
        trace_id, seconds, at = max(found, key=lambda exemplar: float(exemplar[2]))
        return Exemplar({"trace_id": trace_id.hex()}, seconds, at) if at else None


def _counter(metric: Metric) -> CounterMetricFamily:
    return CounterMetricFamily(metric.name, metric.help, labels=metric.labels, unit=metric.unit)


def _gauge(metric: Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels, unit=metric.unit)


def _build_info() -> Family:
    metric = definitions.BUILD_INFO
    versions = {
        "version": version("userservice"),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
    }
    return InfoMetricFamily(metric.name.removesuffix("_info"), metric.help, value=versions)


def _process(pid: int) -> Iterable[Family]:
    return ProcessCollector(pid=lambda: pid, registry=None).collect()


def _processes(processes: Sequence[tuple[str, int]]) -> Iterator[Family]:
    """Yields the metrics of running processes, given by label and id. Without /proc, the metrics have no values."""
    metrics = (definitions.RESIDENT_MEMORY, definitions.OPEN_FDS, definitions.MAX_FDS, definitions.START_TIME)
    families = {metric.name: _gauge(metric) for metric in metrics}
    for label, pid in processes:
        for found in _process(pid):
            if found.name in families:
                families[found.name].add_metric([label], found.samples[0].value)
    yield from families.values()
