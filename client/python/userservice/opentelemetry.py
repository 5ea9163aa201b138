"""Spans for the calls of a manager, with OpenTelemetry. Needs the package `opentelemetry-api` (in the extra `otel`).

from userservice import UserManager
from userservice.opentelemetry import trace_calls

user_manager = UserManager("localhost:50051", on_call=trace_calls())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from opentelemetry import propagate, trace

from userservice._address import server_of
from userservice.hooks import CallAttempt, CallEnd, OnCall

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

# Faults of the server, or of the way to it. Other codes, such as NOT_FOUND, can be what the caller expects.
_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


def trace_calls(tracer_provider: TracerProvider | None = None) -> OnCall:
    """Returns a hook for the option `on_call` that creates a client span for each attempt of a call.

    The span is a child of the current span. The global propagator adds the context of the span to the request. With
    `share_reads`, the span of a shared call belongs to the trace of one of its gets.

    Args:
        tracer_provider: Creates the tracer; None means the global provider.
    """
    tracer = trace.get_tracer("userservice", tracer_provider=tracer_provider)

    def on_call(attempt: CallAttempt) -> CallEnd:
        attributes: dict[str, str | int] = {"rpc.system.name": "grpc", "rpc.method": attempt.method}
        host, port = server_of(attempt.address)
        attributes["server.address"] = host
        if port is not None:
            attributes["server.port"] = port
        span = tracer.start_span(attempt.method, kind=trace.SpanKind.CLIENT, attributes=attributes)
        headers: dict[str, str] = {}
        propagate.inject(headers, trace.set_span_in_context(span))
        attempt.headers.extend((key.lower(), value) for key, value in headers.items())

        def end(code: grpc.StatusCode, _seconds: float) -> None:
            span.set_attribute("rpc.status_code", code.name)
            if code in _FAULTS:
                span.set_attribute("error.type", code.name)
                span.set_status(trace.StatusCode.ERROR)
            span.end()

        return end

    return on_call
