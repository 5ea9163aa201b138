"""Counts the calls of a worker in its slot of the shared memory."""

import time
from bisect import bisect_left

from userservice_server.observability.metrics import definitions
from userservice_server.observability.metrics.definitions import HANDLING_SECONDS, UNIMPLEMENTED
from userservice_server.observability.metrics.layout import EXEMPLAR, UNKNOWN, Layout, Values


class MethodMetrics:
    """Counts the calls of one method. Only the thread of the event loop may use it.

    The numbers of messages of unary requests and responses, and of running calls, are not counted here: they follow
    from the numbers of calls (exposition.py).
    """

    __slots__ = (
        "_exemplar",
        "_exemplars",
        "_handled",
        "_received",
        "_seconds",
        "_sent",
        "_started",
        "_streamed_users",
        "_sum",
        "_values",
    )

    def __init__(self, layout: Layout, values: Values, exemplars: memoryview, position: int) -> None:
        labels = layout.methods[position].labels
        self._values = values
        self._exemplars = exemplars
        self._exemplar = layout.exemplar(position, 0)
        self._started = layout.place(definitions.STARTED, *labels)
        self._received = layout.place(definitions.MESSAGES_RECEIVED, *labels)
        self._sent = layout.place(definitions.MESSAGES_SENT, *labels)
        self._streamed_users = layout.place(definitions.STREAMED_USERS)
        self._handled = layout.handled(position)
        self._seconds = layout.place(HANDLING_SECONDS, *labels)
        self._sum = self._seconds + len(HANDLING_SECONDS.buckets) + 1

    def start(self) -> None:
        """Counts a call that starts."""
        self._values[self._started] += 1

    def end(self, code: int, seconds: float, trace_id: bytes = b"") -> None:
        """Counts a call that ends.

        Args:
            code: the number of its status code.
            seconds: its duration.
            trace_id: the id of its trace if the trace is recorded, else empty.
        """
        values = self._values
        bucket = bisect_left(HANDLING_SECONDS.buckets, seconds)
        values[self._handled + code] += 1
        values[self._seconds + bucket] += 1
        values[self._sum] += seconds
        if trace_id:
            place = self._exemplar + bucket * EXEMPLAR.size
            EXEMPLAR.pack_into(self._exemplars, place, trace_id, seconds, time.time())

    def received(self) -> None:
        """Counts a request of a stream."""
        self._values[self._received] += 1

    def sent(self, users: int) -> None:
        """Counts a response of a stream, and the users in it."""
        self._values[self._sent] += 1
        self._values[self._streamed_users] += users


class CallMetrics:
    """Counts the calls of a worker.

    Attributes:
        unknown: counts the calls of methods that the service does not have.
    """

    def __init__(self, layout: Layout, values: Values, exemplars: memoryview) -> None:
        self._values = values
        self._methods = {
            (method.service, method.name): MethodMetrics(layout, values, exemplars, position)
            for position, method in enumerate(layout.methods)
        }
        self.unknown = self._methods[UNKNOWN.service, UNKNOWN.name]
        rejected = layout.series[definitions.REJECTED_CALLS]
        self._rejected = {reason: rejected.of(reason) for (reason,) in rejected.rows}
        self._stalled = layout.place(definitions.STALLED_STREAMS)

    def method(self, service: str, name: str) -> MethodMetrics:
        """Returns what counts the calls of a method."""
        return self._methods[service, name]

    def reject(self, reason: str) -> None:
        """Counts a call that ends with an error of the service."""
        self._values[self._rejected[reason]] += 1
        if reason == "READER_STALLED":
            self._values[self._stalled] += 1

    def reject_unknown(self) -> None:
        """Counts a call of a method that the service does not have, which grpc rejects."""
        self.unknown.start()
        self.unknown.end(UNIMPLEMENTED, 0.0)
