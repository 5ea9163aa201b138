"""Reads the trace context that a caller sends (W3C Trace Context, header ``traceparent``)."""

import re

_VALUE = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?",
    re.ASCII,
)
_SAMPLED = 1
_FIRST_VERSION, _INVALID_VERSION = "00", "ff"


def sampled_trace_id(value: str) -> bytes:
    """Returns the id of the caller's trace if the caller records it, else ``b""``."""
    match = _VALUE.fullmatch(value)
    if match is None or match["version"] == _INVALID_VERSION:
        return b""
    if match["version"] == _FIRST_VERSION and match["more"]:  # only later versions may have more fields
        return b""
    trace_id, parent_id = bytes.fromhex(match["trace"]), bytes.fromhex(match["parent"])
    return trace_id if any(trace_id) and any(parent_id) and int(match["flags"], 16) & _SAMPLED else b""
