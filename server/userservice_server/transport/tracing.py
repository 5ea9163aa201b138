"""Traces the calls of a method: a span for each call whose trace is recorded."""

from typing import TYPE_CHECKING

import grpc

from userservice_server.transport.call import Call, Handler, Request, Rpc
from userservice_server.transport.status import outcome_of

if TYPE_CHECKING:
    from userservice_server.observability.tracing.spans import CallSpans

# Codes that the semantic conventions call errors of a server; not UNIMPLEMENTED, which is a mistake of the caller.
_FAULTS = frozenset(("UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"))
# Reasons that take precedence over the code. A stalled reader is a fault of the caller, and a shutdown is no fault.
_FAULTS_BY_REASON = {"READER_STALLED": False, "SERVER_SHUTTING_DOWN": False, "STORE_FULL": True, "STORE_CHANGED": True}


def traced(handler: Handler[Request], rpc: Rpc, spans: "CallSpans") -> Handler[Request]:
    """Returns a handler that records each call whose trace is sampled."""
    start = spans.of_method(f"{rpc.service}/{rpc.name}")

    async def recorded(call: Call, request: Request) -> bytes:
        span = start(call.trace, call.headers)
        if span is None:
            return await handler(call, request)
        call.trace = span.context
        try:
            response = await handler(call, request)
        except BaseException as error:
            code, reason = outcome_of(error)
            span.end(code.name, reason, is_fault=is_fault(code.name, reason))
            raise
        span.end(grpc.StatusCode.OK.name)
        return response

    return recorded


def is_fault(code: str, reason: str) -> bool:
    """Returns whether the server is at fault for a failed call.

    Args:
        code: name of the status code.
        reason: reason of an error of the service; empty if there is none.
    """
    return _FAULTS_BY_REASON.get(reason, code in _FAULTS)
