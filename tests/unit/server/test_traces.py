"""Traces: their settings, and what they cost calls that are not recorded."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from harness.shapes import DESCRIPTOR, chain_settings
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, ParentBasedTraceIdRatio, Sampler

from userservice_server.config import ConfigError
from userservice_server.observability.trace_context import TraceContext
from userservice_server.observability.tracing.settings import GRPC, HTTP, trace_settings
from userservice_server.observability.tracing.spans import CallSpans, TraceIds
from userservice_server.transport.call import Call, Rpc
from userservice_server.transport.interceptors import tracing
from userservice_server.transport.status import RULES
from userservice_server.transport.tracing import is_fault

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
UNSAMPLED, SAMPLED = (TraceContext("1" * 32, "2" * 16, flags) for flags in (0, 1))


def test_without_traces_the_chain_has_no_link_and_no_exporter_is_imported() -> None:
    async def handler(_call: Call, _request: bytes) -> bytes:
        return b""

    assert tracing(handler, Rpc.described_by(DESCRIPTOR.methods[0]), chain_settings()) is handler
    program = "import sys, userservice_server.cli.command, userservice_server.process.serving; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "userservice_server.process.tracing" in modules
    # Not "opentelemetry" as a whole, of which redis-py imports parts if it is installed.
    assert not [name for name in modules if name.startswith(("opentelemetry.exporter", "opentelemetry.sdk.trace"))]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "users", "OTEL_TRACES_SAMPLER": "always_on"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_TRACES_EXPORTER": " "},
        {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"},
    ],
)
def test_traces_are_off(environment: Mapping[str, str]) -> None:
    assert trace_settings(environment) is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (ENDPOINT, {"protocol": HTTP, "follows_callers": True, "queue_size": 2048, "batch_size": 512}),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {"protocol": GRPC}),
        (
            {
                **ENDPOINT,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
            },
            {"protocol": GRPC},
        ),
        ({**ENDPOINT, "OTEL_PROPAGATORS": "b3, baggage"}, {"follows_callers": False}),
        ({**ENDPOINT, "OTEL_PROPAGATORS": "b3, tracecontext"}, {"follows_callers": True}),
        ({**ENDPOINT, "OTEL_BSP_MAX_QUEUE_SIZE": "100"}, {"queue_size": 100, "batch_size": 100}),
    ],
)
def test_settings_come_from_the_standard_variables(environment: Mapping[str, str], expected: dict[str, Any]) -> None:
    settings = trace_settings(environment)
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many"),
    ],
)
def test_an_invalid_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be"):
        trace_settings({**ENDPOINT, name: value})


@pytest.mark.parametrize("value", ["half", "1.5", "nan"])
def test_a_ratio_is_between_0_and_1(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^OTEL_TRACES_SAMPLER_ARG must be"):
        trace_settings({**ENDPOINT, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": value})


@pytest.mark.parametrize(
    ("sampler", "parent", "is_recorded"),
    [
        (ParentBased(ALWAYS_ON), UNSAMPLED, False),
        (ParentBased(ALWAYS_ON), SAMPLED, True),
        (ParentBased(ALWAYS_ON), None, True),
        (ParentBasedTraceIdRatio(0), None, False),
        (ParentBasedTraceIdRatio(0), SAMPLED, True),
        (ALWAYS_ON, UNSAMPLED, True),
    ],
)
def test_a_call_that_is_not_recorded_creates_no_span(
    monkeypatch: pytest.MonkeyPatch,
    sampler: Sampler,
    parent: TraceContext | None,
    is_recorded: bool,  # noqa: FBT001
) -> None:
    ids, created = TraceIds(), []
    tracer = TracerProvider(sampler=sampler, resource=Resource({}), id_generator=ids).get_tracer("test")
    assert isinstance(tracer, Tracer)
    start_span = tracer.start_span

    def counted(*arguments: Any) -> Any:
        created.append(arguments)
        return start_span(*arguments)

    monkeypatch.setattr(tracer, "start_span", counted)
    span = CallSpans(tracer, ids, follows_callers=True).of_method("package.Service/Method")(parent, ())
    assert (span is not None) == bool(created) == is_recorded
    if span is not None:
        assert parent is None or span.context.trace_id == parent.trace_id
        assert span.context.is_sampled
        span.end("OK")


def test_a_sampled_parent_of_a_call_that_the_sampler_rejects_has_no_child() -> None:
    tracer = TracerProvider(sampler=ALWAYS_OFF, resource=Resource({})).get_tracer("test")
    assert isinstance(tracer, Tracer)
    assert CallSpans(tracer, TraceIds(), follows_callers=True).of_method("package.Service/Method")(SAMPLED, ()) is None


def test_without_the_propagator_a_call_starts_its_own_trace() -> None:
    ids = TraceIds()
    tracer = TracerProvider(sampler=ParentBased(ALWAYS_ON), resource=Resource({}), id_generator=ids).get_tracer("test")
    assert isinstance(tracer, Tracer)
    for parent in (SAMPLED, UNSAMPLED):
        span = CallSpans(tracer, ids, follows_callers=False).of_method("package.Service/Method")(parent, ())
        assert span is not None
        assert span.context.trace_id != parent.trace_id
        span.end("OK")


def test_mistakes_of_callers_are_no_faults_of_the_server() -> None:
    faults = {reason for reason, rule in RULES.items() if is_fault(rule.code, reason)}
    assert faults == {
        "AUTHENTICATION_UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "INTERNAL",
        "STORE_CHANGED",
        "STORE_FULL",
        "STORE_UNAVAILABLE",
    }
