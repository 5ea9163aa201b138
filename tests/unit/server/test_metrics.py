"""The memory of metrics, what a restarted worker does with its slot, and how slots become one scrape."""

import subprocess
import sys
import time
from itertools import chain

import pytest
from harness.shapes import DESCRIPTOR, chain_settings
from prometheus_client.parser import text_string_to_metric_families

from userservice_server.observability.metrics.exposition import Exposition
from userservice_server.observability.metrics.layout import Layout, Method
from userservice_server.observability.metrics.memory import MetricsMemory
from userservice_server.observability.metrics.worker import WorkerMetrics
from userservice_server.observability.trace_context import parsed
from userservice_server.process.metrics import layout
from userservice_server.transport.call import Call, Rpc
from userservice_server.transport.interceptors import metrics

SMALL = Layout(
    [Method("s", "Get", is_own=True), Method("s", "List", streams_responses=True, is_own=True)],
    ["READER_STALLED"],
    ["get"],
    ["file"],
)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Process:
    """The metrics of a supervisor with two workers."""

    def __init__(self) -> None:
        self.memory = MetricsMemory(3, SMALL.slot_bytes)
        self._exposition = Exposition(SMALL, self.memory, is_supervisor=True)

    def worker(self, slot: int) -> WorkerMetrics:
        return WorkerMetrics(SMALL, self.memory.slot(slot))

    def value(self, name: str, **labels: str) -> float | None:
        """Returns the sum of the samples with this name and these labels; None if there are none."""
        text, _ = self._exposition.render("")
        samples = chain.from_iterable(family.samples for family in text_string_to_metric_families(text.decode()))
        found = [sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()]
        return sum(found) if found else None


def test_every_value_has_a_place_of_its_own() -> None:
    whole = layout()
    places = [
        *chain.from_iterable(
            range(series.start, series.start + series.width * len(series.rows)) for series in whole.series.values()
        ),
        *range(whole.abandoned, whole.abandoned + len(whole.methods)),
        whole.pid,
        whole.tick_due,
        whole.counted_at,
    ]
    assert sorted(places) == list(range(whole.size))
    assert whole.slot_bytes < 32 << 10


def test_a_worker_that_takes_over_a_slot_continues_its_counters_and_resets_its_gauges() -> None:
    process = Process()
    first = process.worker(0)
    calls = first.calls.method("s", "List")
    calls.values[calls.places.started] += 5
    calls.values[calls.places.handled] += 1
    first.calls.reject("READER_STALLED")
    first.store.availability_changed(is_up=True)
    first.show_process(3, 0, {"file": 2})
    first.show_certificate(7.0)
    first.show_watch_lag(9.0)
    assert process.value("userservice_watch_lag_seconds", worker="0") == 9
    assert process.value("userservice_streams", worker="0") == 4
    second = process.worker(0)
    second.show_process(10, 0, {"file": 1})
    assert process.value("grpc_server_started_total", grpc_method="List") == 5
    assert process.value("grpc_server_handled_total", grpc_method="List") == 1
    assert process.value("userservice_stalled_streams_total") == 1
    assert process.value("userservice_audit_lines_dropped_total") == 13
    assert process.value("userservice_reload_failures_total", file="file") == 3
    assert process.value("userservice_streams", worker="0") == 0
    assert process.value("userservice_calls_in_progress", worker="0") == 0
    assert process.value("userservice_store_up", worker="0") == 0
    assert process.value("userservice_watch_lag_seconds", worker="0") == 0
    assert process.value("userservice_certificate_expiry_timestamp_seconds") is None


def test_counters_of_all_workers_are_summed_and_a_worker_that_is_gone_has_no_gauges() -> None:
    process = Process()
    for slot in (0, 1):
        calls = process.worker(slot).calls.method("s", "Get")
        calls.values[calls.places.started] += 1
    assert process.value("grpc_server_started_total", grpc_method="Get") == 2
    assert process.value("userservice_calls_in_progress") == 2
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    process.memory.slot(1)[: SMALL.exemplars_start].cast("d")[SMALL.pid] = gone.pid
    assert process.value("grpc_server_started_total", grpc_method="Get") == 2
    assert process.value("userservice_calls_in_progress") == 1
    assert process.value("process_open_fds", worker="1") is None
    assert process.value("process_open_fds", worker="supervisor")


def test_the_newest_sizes_of_the_store_are_shown_until_they_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process()
    older, newer = process.worker(0), process.worker(1)
    assert process.value("userservice_users") is None
    older.show_store(1, 1)
    time.sleep(0.001)
    newer.show_store(2, None)
    assert process.value("userservice_users") == 2
    assert process.value("userservice_sessions") is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 70)
    assert process.value("userservice_users") is None


def test_an_event_loop_that_is_blocked_now_shows() -> None:
    process = Process()
    process.worker(0).show_loop(0.25, time.monotonic() + 60)
    assert process.value("userservice_event_loop_lag_seconds") == 0.25
    process.worker(0).show_loop(0.25, time.monotonic() - 60)
    lag = process.value("userservice_event_loop_lag_seconds")
    assert lag is not None
    assert 60 <= lag < 70


def test_without_metrics_the_chain_has_no_link() -> None:
    async def handler(_call: Call, _request: bytes) -> bytes:
        return b""

    rpc = Rpc.described_by(DESCRIPTOR.methods[0])
    assert metrics(handler, rpc, chain_settings()) is handler


@pytest.mark.parametrize(
    ("value", "is_sampled"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-03", True),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-holds", True),
        (f"00-{TRACE}-{PARENT}-00", False),
        (f"00-{TRACE}-{PARENT}-01-", False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        (f"00-{TRACE}-{PARENT}", False),
        ("", False),
    ],
)
def test_the_trace_id_of_a_sampled_trace_is_read(value: str, is_sampled: bool) -> None:  # noqa: FBT001
    context = parsed(value)
    assert (context is not None and context.is_sampled and context.trace_id == TRACE) == is_sampled
