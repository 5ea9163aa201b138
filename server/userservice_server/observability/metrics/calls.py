"""Counts the calls of a worker in its slot of the shared memory."""

import time
from bisect import bisect_left
from typing import NamedTuple

from userservice_server.observability.metrics import definitions
from userservice_server.observability.metrics.definitions import HANDLING_SECONDS, UNIMPLEMENTED
from userservice_server.observability.metrics.layout import EXEMPLAR, UNKNOWN, Layout, Values


class Places(NamedTuple):
    """The places of the values that change with each call of a method.

    Attributes:
        started: number of calls that started.
        handled: the first of the numbers of calls that ended, by code.
        seconds: the first bucket of their durations.
        sum: sum of their durations.
    """

    started: int
    handled: int
    seconds: int
    sum: int


class MethodMetrics:
    """Counts the calls of one method. Only the thread of the event loop may use it.

    The numbers of unary requests and responses, and of running calls, are not counted here: exposition.py computes them
    from the numbers of calls.

    Attributes:
        values: the values of the worker. For each call, transport/measuring.py writes to them directly, which takes
            half the time of two method calls.
        places: the places of these values.
    """

    __slots__ = (
        "_exemplar",
        "_exemplars",
        "_received",
        "_sent",
        "_streamed_users",
        "places",
        "values",
    )

    def __init__(self, layout: Layout, values: Values, exemplars: memoryview, position: int) -> None:
        labels = layout.methods[position].labels
        seconds = layout.place(HANDLING_SECONDS, *labels)
        self.values = values
        self.places = Places(
            started=layout.place(definitions.STARTED, *labels),
            handled=layout.handled(position),
            seconds=seconds,
            sum=seconds + len(HANDLING_SECONDS.buckets) + 1,
        )
        self._exemplars = exemplars
        self._exemplar = layout.exemplar(position, 0)
        self._received = layout.place(definitions.MESSAGES_RECEIVED, *labels)
        self._sent = layout.place(definitions.MESSAGES_SENT, *labels)
        self._streamed_users = layout.place(definitions.STREAMED_USERS)

    def show_trace(self, trace_id: bytes, seconds: float) -> None:
        """Records a traced call as the exemplar of its bucket."""
        place = self._exemplar + bisect_left(HANDLING_SECONDS.buckets, seconds) * EXEMPLAR.size
        EXEMPLAR.pack_into(self._exemplars, place, trace_id, seconds, time.time())

    def received(self) -> None:
        """Counts a request of a stream."""
        self.values[self._received] += 1

    def sent(self, users: int) -> None:
        """Counts a response of a stream, and the users in it."""
        self.values[self._sent] += 1
        self.values[self._streamed_users] += users


class CallMetrics:
    """Counts the calls of a worker."""

    def __init__(self, layout: Layout, values: Values, exemplars: memoryview) -> None:
        self._values = values
        self._methods = {
            (method.service, method.name): MethodMetrics(layout, values, exemplars, position)
            for position, method in enumerate(layout.methods)
        }
        self._unknown = self._methods[UNKNOWN.service, UNKNOWN.name]
        rejected = layout.series[definitions.REJECTED_CALLS]
        self._rejected = {reason: rejected.of(reason) for (reason,) in rejected.rows}
        self._stalled = layout.place(definitions.STALLED_STREAMS)

    def method(self, service: str, name: str) -> MethodMetrics:
        """Returns the counters of a method."""
        return self._methods[service, name]

    def reject(self, reason: str) -> None:
        """Counts a call that ends with an error of the service."""
        self._values[self._rejected[reason]] += 1
        if reason == "READER_STALLED":
            self._values[self._stalled] += 1

    def reject_unknown(self) -> None:
        """Counts a call of an unknown method, which grpc rejects."""
        places = self._unknown.places
        for place in (places.started, places.handled + UNIMPLEMENTED, places.seconds):
            self._values[place] += 1
