"""Creates the spans of calls, and of the store's scripts as their children.

Names and attributes follow the semantic conventions of OpenTelemetry 1.44 for RPC and for Redis. Spans contain no
request fields, records, addresses or texts of exceptions.
"""

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from userservice_server.observability.trace_context import TraceContext

Headers = Sequence[tuple[str, str | bytes]]
_ROOT = Context()
_OTHER_METHOD = "_OTHER"  # as the conventions name a method that the service does not have
_TRACE_STATE_KEY = "tracestate"
_NANOSECONDS = 1_000_000_000

_running: ContextVar[Span | None] = ContextVar("running call", default=None)


class TraceIds(RandomIdGenerator):
    """Generates ids of traces and spans. The id of the next trace can be set, so that it can be sampled first.

    Attributes:
        next_trace_id: id of the next trace; 0: a random id.
    """

    next_trace_id = 0

    def generate_trace_id(self) -> int:
        """Returns the id of a new trace."""
        trace_id, self.next_trace_id = self.next_trace_id, 0
        return trace_id or super().generate_trace_id()


class CallSpan:
    """The span of a running call, which is recorded.

    Attributes:
        context: ids and flags of the span.
    """

    __slots__ = ("_span", "_token", "context")

    def __init__(self, span: Span) -> None:
        own = span.get_span_context()
        self.context = TraceContext(f"{own.trace_id:032x}", f"{own.span_id:016x}", own.trace_flags)
        self._span = span
        self._token: Token[Span | None] = _running.set(span)

    def end(self, code: str, reason: str = "", *, is_fault: bool = False) -> None:
        """Ends the span.

        Args:
            code: name of the status code that the caller receives.
            reason: reason of an error of the service.
            is_fault: whether the server is at fault, not its caller.
        """
        span = self._span
        span.set_attribute("rpc.status_code", code)
        if reason:
            span.set_attribute("userservice.error.reason", reason)
        if is_fault:
            span.set_attribute("error.type", code)
            span.set_status(StatusCode.ERROR)
        span.end()
        _running.reset(self._token)


Start = Callable[[TraceContext | None, Headers], CallSpan | None]
"""Starts the span of a call, from the span and the headers of its caller; returns None if the call is not recorded."""


class CallSpans:
    """Creates the spans of calls.

    Args:
        tracer: creates and samples the spans.
        ids: generates the ids of the tracer.
        follows_callers: whether the trace context of callers is used.
    """

    def __init__(self, tracer: Tracer, ids: TraceIds, *, follows_callers: bool) -> None:
        self._tracer = tracer
        self._ids = ids
        self._follows_callers = follows_callers
        # Every sampler that OTEL_TRACES_SAMPLER names and that depends on parents rejects an unsampled parent.
        self._skips_unsampled = isinstance(tracer.sampler, ParentBased)

    def of_method(self, method: str) -> Start:
        """Returns a function that starts the spans of a method, given by its full name."""
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}

        def start(parent: TraceContext | None, headers: Headers) -> CallSpan | None:
            span = self._span(method, attributes, parent, headers)
            return None if span is None else CallSpan(span)

        return start

    def reject_unknown(self, method: str, parent: TraceContext | None, headers: Headers) -> None:
        """Creates the span of a call of a method that the service does not have.

        Args:
            method: the name that the caller sent; empty if it is not printable.
            parent: the span of the caller.
            headers: the headers of the call.
        """
        attributes = {"rpc.system.name": "grpc", "rpc.method": _OTHER_METHOD, "rpc.status_code": "UNIMPLEMENTED"}
        if method:
            attributes["rpc.method_original"] = method
        span = self._span("grpc", attributes, parent, headers)
        if span is not None:
            span.end()

    def _span(
        self, name: str, attributes: dict[str, str], parent: TraceContext | None, headers: Headers
    ) -> Span | None:
        """Starts a span; returns None, without creating an object, if the call is not recorded."""
        if parent is None or not self._follows_callers:
            # Sampled here first: the tracer creates an object even for a call that is not recorded.
            trace_id = self._ids.generate_trace_id()
            result = self._tracer.sampler.should_sample(_ROOT, trace_id, name, SpanKind.SERVER, attributes)
            if result.decision is Decision.DROP:
                return None
            self._ids.next_trace_id = trace_id
            context = _ROOT
        elif not parent.is_sampled and self._skips_unsampled:
            return None
        else:
            context = _remote(parent, headers)
        span = self._tracer.start_span(name, context, SpanKind.SERVER, attributes)
        return span if span.is_recording() else None


def _remote(parent: TraceContext, headers: Headers) -> Context:
    states = [value for key, value in headers if key == _TRACE_STATE_KEY and isinstance(value, str)]
    span_context = SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(parent.flags),
        trace_state=TraceState.from_header(states) if states else None,
    )
    return set_span_in_context(NonRecordingSpan(span_context), _ROOT)


class StoreSpans:
    """Creates a span for each script that the store runs for a recorded call (see store/events.py).

    Args:
        tracer: creates the spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def replied(self, script: str, seconds: float) -> None:
        """Creates the span of an answered script."""
        if (parent := _running.get()) is not None:
            self._span(parent, script, seconds).end()

    def failed(self, script: str, seconds: float, error: BaseException) -> None:
        """Creates the span of a script that failed, or whose caller was cancelled."""
        if (parent := _running.get()) is not None:
            span = self._span(parent, script, seconds)
            # Only the type, because the text can contain an address or a password.
            span.set_attribute("error.type", type(error.__cause__ or error).__name__)
            span.set_status(StatusCode.ERROR)
            span.end()

    def _span(self, parent: Span, script: str, seconds: float) -> Span:
        is_range = script == "range"
        command = "ZRANGE" if is_range else "EVALSHA"
        attributes = {"db.system.name": "redis", "db.operation.name": command}
        if not is_range:
            attributes["db.stored_procedure.name"] = script
        return self._tracer.start_span(
            f"{command} {script}",
            set_span_in_context(parent, _ROOT),
            SpanKind.CLIENT,
            attributes,
            start_time=time.time_ns() - int(seconds * _NANOSECONDS),
        )

    def batch_sent(self, commands: int) -> None:
        """Creates no span: a batch contains commands of several calls."""

    def reconnected(self) -> None:
        """Creates no span."""

    def conflicted(self) -> None:
        """Creates no span: the repeated script has its own."""

    def replayed(self) -> None:
        """Creates no span."""

    def availability_changed(self, *, is_up: bool) -> None:
        """Creates no span."""
