"""Logs and counts calls of methods that the service does not have; grpc rejects these calls with UNIMPLEMENTED."""

import logging
import re
import time
from typing import Any

import grpc

from userservice_server.observability.log_writer import add_line
from userservice_server.observability.metrics.calls import CallMetrics

_METHOD = re.compile(r"[!-~]{1,128}", re.ASCII)

logger = logging.getLogger("userservice.access")


class UnknownMethods(grpc.GenericRpcHandler):
    """Logs and counts each call that no other handler accepts. Must be the last handler of a server.

    Args:
        metrics: counts the calls, all under one label; None: they are not counted.
    """

    def __init__(self, metrics: CallMetrics | None) -> None:
        self._metrics = metrics

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Logs and counts the call, and leaves the rejection to grpc."""
        if self._metrics is not None:
            self._metrics.reject_unknown()
        if logger.isEnabledFor(logging.INFO):
            path = handler_call_details.method
            fields = {"method": path if _METHOD.fullmatch(path) else "(unprintable)", "code": "UNIMPLEMENTED"}
            add_line(time.time(), "INFO", logger.name, "unknown method", fields)
