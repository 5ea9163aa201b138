"""Logs calls to methods that the service does not have; grpc itself rejects these calls with UNIMPLEMENTED."""

import logging
import re
import time
from typing import Any

import grpc

from userservice_server.observability.log_writer import add_line

_METHOD = re.compile(r"[!-~]{1,128}", re.ASCII)

logger = logging.getLogger("userservice.access")


class UnknownMethods(grpc.GenericRpcHandler):
    """Logs each call that no other handler accepts. Must be the last handler of a server."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Logs the call and leaves the rejection to grpc."""
        if logger.isEnabledFor(logging.INFO):
            path = handler_call_details.method
            fields = {"method": path if _METHOD.fullmatch(path) else "(unprintable)", "code": "UNIMPLEMENTED"}
            add_line(time.time(), "INFO", logger.name, "unknown method", fields)
