"""Traces: which spans an OTLP collector receives, and what happens without a collector."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import grpc
import pytest
from harness import raw
from harness.collectors import Collector, Span
from harness.connections import Stubs, connect
from harness.metrics import METRICS, OPENMETRICS, metrics_address, scrape
from harness.population import add_users
from harness.ports import free_port
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1.user_service_pb2 import AddUserRequest, GetUserRequest, ListUsersRequest

USERS = "userservice.v1.UserService"
LATE = {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
PARENT = "b7ad6b7169203331"
_numbers = count(1)


@dataclass(frozen=True)
class Traced:
    """A service with traces."""

    service: Service
    collector: Collector
    metrics: str


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    """A service with 300 users."""
    with Collector() as collector, Store() as store:
        environment = collector.environment | {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
        with Service(*METRICS, redis_url=store.url, environment=environment) as service:
            asyncio.run(populate(service.address))
            yield Traced(service, collector, metrics_address(service))
            assert service.stop() == 0


async def populate(address: str) -> None:
    async with connect(address) as stubs:
        await add_users(stubs, [f"u{number}" for number in range(300)])


@pytest.fixture
async def stubs(traced: Traced) -> AsyncIterator[Stubs]:
    async with connect(traced.service.address) as connected:
        yield connected


def new_trace() -> str:
    return f"{next(_numbers):032x}"


def sent_by(trace: str, flags: str = "01") -> list[tuple[str, str]]:
    return [("traceparent", f"00-{trace}-{PARENT}-{flags}"), ("tracestate", "vendor=value")]


def one_server_span(spans: list[Span]) -> Span:
    [span] = [span for span in spans if span.kind == "SERVER"]
    return span


async def test_a_call_has_a_span_with_a_child_for_each_script(traced: Traced, stubs: Stubs) -> None:
    trace = new_trace()
    user_id, email = "known-to-nobody-else", "secret@example.org"
    request = AddUserRequest(user_id=user_id, email=email)
    await stubs.users.AddUser(request, metadata=[*sent_by(trace), ("x-request-id", "call-of-the-trace")])
    child, span = traced.collector.trace(trace, 2)
    assert (span.name, span.kind, span.parent_id) == (f"{USERS}/AddUser", "SERVER", PARENT)
    assert span.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{USERS}/AddUser",
        "rpc.status_code": "OK",
    }
    assert span.trace_state == "vendor=value"
    assert span.resource["service.name"] == "userservice"
    assert span.resource["deployment.environment.name"] == "test"
    assert (child.name, child.kind, child.parent_id) == ("EVALSHA add", "CLIENT", span.span_id)
    assert child.attributes == {
        "db.system.name": "redis",
        "db.operation.name": "EVALSHA",
        "db.stored_procedure.name": "add",
    }
    assert 0 < child.seconds < span.seconds
    for text in (user_id, email, "127.0.0.1"):
        assert text not in span.text + child.text, "spans contain no data of users, and no addresses"
    [line] = until(lambda: traced.service.log_lines_with("call-of-the-trace"))
    assert line["trace_id"] == trace


async def test_a_call_of_an_unsampled_trace_has_no_span_but_a_log_line(traced: Traced, stubs: Stubs) -> None:
    unsampled, sampled = new_trace(), new_trace()
    for metadata in (sent_by(unsampled, "00"), sent_by(sampled)):
        await stubs.users.GetUser(GetUserRequest(user_id="u0"), metadata=metadata)
    traced.collector.trace(sampled, 2)
    assert not [span for span in traced.collector.spans() if span.trace_id == unsampled]
    assert until(lambda: traced.service.log_lines_with(unsampled))


async def test_a_call_without_a_parent_starts_a_trace(traced: Traced, stubs: Stubs) -> None:
    metadata = [("traceparent", f"00-{'e' * 32}-{PARENT}-x"), ("x-request-id", "an-invalid-parent")]
    await stubs.users.GetUser(GetUserRequest(user_id="u0"), metadata=metadata)
    [line] = until(lambda: traced.service.log_lines_with("an-invalid-parent"))
    assert line["trace_id"] != "e" * 32
    span = one_server_span(traced.collector.trace(line["trace_id"], 2))
    assert span.parent_id == ""
    samples = scrape(traced.metrics, OPENMETRICS).samples
    exemplars = [sample.exemplar.labels["trace_id"] for sample in samples if sample.exemplar]
    assert line["trace_id"] in exemplars, "exemplars refer to traces that the service starts"


async def test_reads_of_concurrent_lists_belong_to_their_traces(traced: Traced, stubs: Stubs) -> None:
    traces = [new_trace() for _ in range(12)]  # more than the limit of concurrent reads, so some start others
    await asyncio.gather(
        *(stubs.users.ListUsers(ListUsersRequest(limit=1000), metadata=sent_by(trace)) for trace in traces)
    )
    for trace in traces:
        spans = traced.collector.ended(trace)
        reads, span = [found for found in spans if found.kind == "CLIENT"], one_server_span(spans)
        assert {read.name for read in reads} == {"ZRANGE range"}
        assert {read.parent_id for read in reads} == {span.span_id}


async def test_only_faults_of_the_server_are_errors(traced: Traced, stubs: Stubs) -> None:
    spans = {}
    for user_id in ("missing", ""):
        trace = new_trace()
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.users.GetUser(GetUserRequest(user_id=user_id), metadata=sent_by(trace))
        spans[user_id] = one_server_span(traced.collector.trace(trace, 1 if user_id == "" else 2))
    trace = new_trace()
    async with grpc.aio.insecure_channel(traced.service.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await raw.unary_unary(channel, f"/{USERS}/Guess")(b"", metadata=sent_by(trace))
    unknown = one_server_span(traced.collector.trace(trace, 1))
    trace = new_trace()
    async with grpc.aio.insecure_channel(traced.service.address) as channel:
        watch = raw.unary_stream(channel, "/grpc.health.v1.Health/Watch")(b"", metadata=sent_by(trace))
        await watch.read()
        watch.cancel()
    cancelled = one_server_span(traced.collector.trace(trace, 1))
    found = [span.attributes["rpc.status_code"] for span in (*spans.values(), unknown, cancelled)]
    assert found == ["NOT_FOUND", "INVALID_ARGUMENT", "UNIMPLEMENTED", "CANCELLED"]
    assert spans["missing"].attributes["userservice.error.reason"] == "USER_NOT_FOUND"
    assert (unknown.name, unknown.attributes["rpc.method"]) == ("grpc", "_OTHER")
    assert unknown.attributes["rpc.method_original"] == f"{USERS}/Guess"
    for span in (*spans.values(), unknown, cancelled):
        assert not span.is_error, span.name
        assert "error.type" not in span.attributes


@pytest.mark.long
async def test_a_fault_is_an_error_and_the_last_spans_are_exported_over_grpc_too() -> None:
    trace = new_trace()
    with (
        Collector("grpc") as collector,
        Store() as store,
        Service(redis_url=store.url, environment=collector.environment | LATE) as service,
    ):
        store.kill()
        async with connect(service.address) as stubs:
            with pytest.raises(grpc.aio.AioRpcError):
                await stubs.users.GetUser(GetUserRequest(user_id="u"), metadata=sent_by(trace))
        assert service.stop() == 0
        child, span = collector.trace(trace, 2)
    assert (span.is_error, span.attributes["error.type"]) == (True, "UNAVAILABLE")
    assert span.attributes["userservice.error.reason"] == "STORE_UNAVAILABLE"
    assert (child.is_error, child.name) == (True, "EVALSHA get")
    assert "error.type" in child.attributes


@pytest.mark.long
async def test_spans_that_the_collector_refuses_are_counted() -> None:
    with Collector() as collector, Store() as store:
        collector.refused = True
        with Service(*METRICS, redis_url=store.url, environment=collector.environment) as service:
            metrics = metrics_address(service)
            async with connect(service.address) as stubs:
                await add_users(stubs, [f"u{number}" for number in range(50)])
                until(lambda: scrape(metrics).value("userservice_spans_dropped_total") == 100)
                collector.refused = False
                await stubs.users.GetUser(GetUserRequest(user_id="u0"))
            collector.named("EVALSHA get")
            assert scrape(metrics).value("userservice_spans_dropped_total") == 100
            warnings = [line for line in service.log if line["level"] != "INFO"]
            assert {line["logger"] for line in warnings} == {"userservice.traces"}, "no lines of libraries"
            assert len(warnings) == 1, "not one line for each batch"
            assert service.stop() == 0


@pytest.mark.long
async def test_without_a_collector_calls_succeed_and_the_service_stops_in_time(tmp_path: Path) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_MAX_QUEUE_SIZE": "10",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
    }
    with Service(*METRICS, data_dir=tmp_path, environment=environment) as service:
        metrics = metrics_address(service)
        async with connect(service.address) as stubs:
            await add_users(stubs, [f"u{number}" for number in range(50)])
        # The export of the first spans is still being repeated, and all others exceed the queue.
        until(lambda: scrape(metrics).value("userservice_spans_dropped_total") >= 80)
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 5, "OpenTelemetry itself would wait for 10 s"


def test_a_missing_extra_is_one_clear_line(tmp_path: Path) -> None:
    hidden = tmp_path / "opentelemetry"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError(__name__)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": path, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}
    with Service(data_dir=tmp_path / "data", environment=environment, wait=False) as service:
        assert service.wait() == 2
        [line] = service.stderr
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, but OpenTelemetry is not installed" in line
    assert not (tmp_path / "data").exists(), "checked before the store is started"
