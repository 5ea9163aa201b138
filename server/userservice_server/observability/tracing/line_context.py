"""Makes the span that a log line names current, so that OpenTelemetry's log handler links the line to its trace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from userservice_server.observability.trace_context import FLAGS_FIELD, SPAN_ID_FIELD, TRACE_ID_FIELD


@contextmanager
def span_of_line(fields: Mapping[str, Any]) -> Iterator[None]:
    """Makes the span of a line current during the block; does nothing if the line has no span."""
    if SPAN_ID_FIELD not in fields:
        yield
        return
    trace_id, span_id = int(fields[TRACE_ID_FIELD], 16), int(fields[SPAN_ID_FIELD], 16)
    span = SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(int(fields[FLAGS_FIELD], 16)))
    token = attach(set_span_in_context(NonRecordingSpan(span)))
    try:
        yield
    finally:
        detach(token)
