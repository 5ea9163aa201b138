"""Thousands of callers on a few bare HTTP/2 connections, which need so little CPU that the server is the limit.

Each caller makes its next call as soon as it gets a response; after a rejection, it waits for the suggested delay.
"""

import heapq
import random
import re
import selectors
import time
from collections import Counter
from dataclasses import dataclass, field

from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from loadgen import http2
from loadgen.h2load import grpc_frame

_CONNECTIONS = 20
_DATA, _HEADERS, _SETTINGS, _END_STREAM = 0, 1, 4, 1
# No table of headers, so that each is written out; binary ones as they are (an extension of gRPC's).
_PLAIN_HEADERS = bytes.fromhex("0001 00000000  fe03 00000001")
_DETAILS = re.compile(rb"grpc-status-details-bin(?:([\x00-\x7e])|\x7f([\x80-\xff]*[\x00-\x7f]))\x00")


@dataclass
class Outcome:
    """The outcomes of calls during the measurement."""

    seconds: float
    answered: int = 0
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        return self.answered / self.seconds


class _Connection(http2.Connection):
    """A connection that also returns the headers of rejections."""

    def __init__(self, port: int, method: str, body: bytes) -> None:
        super().__init__(port)
        self.socket.sendall(http2.frame(_SETTINGS, 0, 0, _PLAIN_HEADERS))
        self._block, self._body = http2.header_block(method), body
        self.asked: dict[int, tuple[float, bool]] = {}

    def ask(self, callers: int) -> None:
        now, frames = time.perf_counter(), []
        for _ in range(callers):
            frames.append(self.request(self._block, self._body))
            self.asked[self.stream] = now, False
        self.socket.sendall(b"".join(frames))


def load(port: int, method: str, request: Message, callers: int, seconds: float, *, lead_in: float) -> Outcome:
    """Runs the given number of callers for the given time; calls during the preceding ``lead_in`` do not count."""
    body = grpc_frame(request)
    outcome = Outcome(seconds)
    begin = time.perf_counter() + lead_in
    waiting: list[tuple[float, int]] = []
    with selectors.DefaultSelector() as selector:
        connections = [_Connection(port, method, body) for _ in range(min(_CONNECTIONS, callers))]
        for number, connection in enumerate(connections):
            selector.register(connection.socket, selectors.EVENT_READ, number)
            connection.ask(len(range(number, callers, len(connections))))
        while (now := time.perf_counter()) < begin + seconds:
            again: Counter[int] = Counter()
            while waiting and waiting[0][0] <= now:
                again[heapq.heappop(waiting)[1]] += 1
            for event, _ in selector.select(0 if again else 0.01):
                number = event.data
                for delay in _read(connections[number], outcome, begin):
                    if delay is None:
                        again[number] += 1
                    else:
                        heapq.heappush(waiting, (time.perf_counter() + delay, number))
            for number, count in again.items():
                connections[number].ask(count)
        for connection in connections:
            connection.close()
    return outcome


def _read(connection: _Connection, outcome: Outcome, begin: float) -> list[float | None]:
    """Reads once; returns for each ended call the delay of its caller, or None if the call succeeded."""
    ended: list[float | None] = []
    now = time.perf_counter()
    for frame in connection.frames():
        if frame.kind == _DATA:
            connection.asked[frame.stream] = connection.asked[frame.stream][0], True
        if frame.kind not in {_DATA, _HEADERS} or not frame.flags & _END_STREAM:
            continue
        asked, is_answered = connection.asked.pop(frame.stream)
        if is_answered:
            ended.append(None)
            if now >= begin:
                outcome.answered += 1
                outcome.latencies.append(now - asked)
            continue
        reason, delay = _refusal(frame.payload)
        # As the managers: what the server says, and a random bit, so that callers do not come back in step.
        ended.append(delay + random.uniform(0, 0.05))  # noqa: S311
        if now >= begin:
            outcome.refusals.append(now - asked)
            outcome.delays.append(delay)
            outcome.reasons[reason] += 1
    return ended


def _refusal(headers: bytes) -> tuple[str, float]:
    found = _DETAILS.search(headers)
    assert found, f"an error without details: {headers!r}"
    length = found[1][0] if found[1] else 127 + sum((byte & 0x7F) << 7 * n for n, byte in enumerate(found[2]))
    status = Status.FromString(headers[found.end() : found.end() + length - 1])
    info, retry = ErrorInfo(), RetryInfo()
    for detail in status.details:
        detail.Unpack(info) or detail.Unpack(retry)
    return f"{status.code} {info.reason}", retry.retry_delay.ToMicroseconds() / 1e6
