"""Logs, counts and traces calls of unknown methods; grpc rejects these calls with UNIMPLEMENTED."""

import logging
import re
import time
from typing import TYPE_CHECKING, Any

import grpc

from userservice_server.observability.log_writer import add_line
from userservice_server.observability.metrics.calls import CallMetrics
from userservice_server.observability.trace_context import HEADER, parsed

if TYPE_CHECKING:
    from userservice_server.observability.tracing.spans import CallSpans

_METHOD = re.compile(r"[!-~]{1,128}", re.ASCII)

logger = logging.getLogger("userservice.access")


class UnknownMethods(grpc.GenericRpcHandler):
    """Logs, counts and traces each call that no other handler accepts. Must be the last handler of a server.

    Args:
        metrics: counts the calls, all under one label; None: they are not counted.
        spans: creates the spans of the calls; None: they are not traced.
    """

    def __init__(self, metrics: CallMetrics | None, spans: "CallSpans | None" = None) -> None:
        self._metrics = metrics
        self._spans = spans

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Logs, counts and traces the call, and leaves the rejection to grpc."""
        if self._metrics is not None:
            self._metrics.reject_unknown()
        path = handler_call_details.method
        method = path if _METHOD.fullmatch(path) else ""
        if self._spans is not None:
            headers = tuple(handler_call_details.invocation_metadata or ())
            value = next((value for key, value in headers if key == HEADER), "")
            parent = parsed(value) if isinstance(value, str) else None
            self._spans.reject_unknown(method.removeprefix("/"), parent, headers)
        if logger.isEnabledFor(logging.INFO):
            fields = {"method": method or "(unprintable)", "code": "UNIMPLEMENTED"}
            add_line(time.time(), "INFO", logger.name, "unknown method", fields)
