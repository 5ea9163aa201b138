"""Counts and times the calls of a method, for metrics."""

import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable
from typing import Any, Self, cast

from userservice_server.observability.metrics.calls import CallMetrics, MethodMetrics
from userservice_server.observability.metrics.definitions import HANDLING_SECONDS, OK
from userservice_server.transport.call import Call, Handler, Request, Rpc
from userservice_server.transport.status import outcome_of


def measured(handler: Handler[Request], rpc: Rpc, metrics: CallMetrics) -> Handler[Request]:
    """Returns a handler that counts each call once, before its status is sent."""
    method = metrics.method(rpc.service, rpc.name)
    values, bounds, now = method.values, HANDLING_SECONDS.buckets, time.perf_counter
    started, handled, buckets, total = method.places

    async def unary(call: Call, request: Request) -> bytes:
        values[started] += 1
        since = now()
        code = OK
        try:
            return await handler(call, request)
        except BaseException as error:
            code = _failed(error, metrics)
            raise
        finally:
            seconds = now() - since
            values[handled + code] += 1
            values[buckets + bisect_left(bounds, seconds)] += 1
            values[total] += seconds
            if call.trace is not None and call.trace.is_sampled:
                method.show_trace(bytes.fromhex(call.trace.trace_id), seconds)

    async def stream(call: Call, request: Request) -> bytes:
        call.on_sent = method.sent
        return await unary(call, request)

    async def request_stream(call: Call, requests: Request) -> bytes:
        counted: Any = _Counted(cast("AsyncIterator[object]", requests), method)
        return await stream(call, counted)

    if rpc.streams_requests:
        return request_stream
    return stream if rpc.streams_responses else unary


def _failed(error: BaseException, metrics: CallMetrics) -> int:
    """Counts the reason of a failed call; returns the number of the code that the interceptor ``errors`` sends."""
    code, reason = outcome_of(error)
    if reason:
        metrics.reject(reason)
    number: int = code.value[0]
    return number


class _Counted:
    """Iterates over the requests of a stream, and counts them."""

    def __init__(self, requests: AsyncIterator[object], method: MethodMetrics) -> None:
        self._requests = requests
        self._count: Callable[[], None] = method.received

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> object:
        request = await self._requests.__anext__()
        self._count()
        return request
