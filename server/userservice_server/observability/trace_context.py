"""Reads the trace context that a caller sends (W3C Trace Context, header ``traceparent``)."""

import re
from typing import NamedTuple

HEADER = "traceparent"
# Fields of log lines, named as OpenTelemetry specifies for logs in JSON.
TRACE_ID_FIELD, SPAN_ID_FIELD, FLAGS_FIELD = "trace_id", "span_id", "trace_flags"
_VALUE = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED = 1
_FIRST_VERSION, _INVALID_VERSION = "00", "ff"
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


class TraceContext(NamedTuple):
    """A span of a trace.

    Attributes:
        trace_id: id of the trace, 32 hexadecimal digits.
        span_id: id of the span, 16 hexadecimal digits.
        flags: the trace flags.
    """

    trace_id: str
    span_id: str
    flags: int

    @property
    def is_sampled(self) -> bool:
        """Whether the trace is recorded."""
        return bool(self.flags & _SAMPLED)

    @property
    def log_fields(self) -> dict[str, str]:
        """The fields of the log lines of a call."""
        return {TRACE_ID_FIELD: self.trace_id, SPAN_ID_FIELD: self.span_id, FLAGS_FIELD: f"{self.flags:02x}"}


def parsed(value: str) -> TraceContext | None:
    """Returns the span of a caller from its header ``traceparent``; None if the header is invalid."""
    match = _VALUE.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == _INVALID_VERSION or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    if version == _FIRST_VERSION and more:  # only later versions may have more fields
        return None
    return TraceContext(trace_id, span_id, int(flags, 16))
