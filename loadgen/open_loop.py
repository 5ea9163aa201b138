"""An open-loop load generator: calls start on a schedule, even if earlier calls have no response yet.

A closed loop sends the next call when a response arrives, so it measures fewer calls while the server is slow
(coordinated omission). This generator measures the latency of a call from the time at which the call was scheduled.
Therefore the latency includes the delay of a call that was sent late because this program or the server was busy.

h2load can send at a fixed rate, but repeats one body and measures from the actual send. ghz also measures from the
actual send, and needs more CPU time per call than a Go server.
"""

import gc
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from loadgen.errors import LoadError
from loadgen.http2 import AnswerReader, Connection, Request

_ANSWER_SECONDS = 30.0  # for the calls that have no response when the schedule ends


@dataclass(frozen=True, slots=True)
class Latencies:
    """The result of an open loop.

    Attributes:
        seconds: latency of each call, sorted.
        delays: seconds between schedule and send of each call, sorted. Large values mean that the generator was slow
            and not the server.
        errors: number of responses without a message.
        data_bytes: size of all received messages.
        cpu_share: CPU time of this process, relative to the duration.
    """

    seconds: list[float]
    delays: list[float]
    errors: int
    data_bytes: int
    cpu_share: float

    def percentile(self, percent: float) -> float:
        """Returns the latency that ``percent`` of the calls did not exceed."""
        return percentile(self.seconds, percent)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Returns the smallest of these sorted values that ``percent`` of them do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * percent // 100) - 1))]


def schedule(calls: int, rate: float, seed: int = 1) -> list[float]:
    """Returns start times of calls that arrive independently of each other, ``rate`` per second on average."""
    random = Random(seed)  # noqa: S311 - the same schedule for each contestant
    return list(accumulate(random.expovariate(rate) for _ in range(calls)))


def run(port: int, requests: Sequence[Request], rate: float, *, connections: int = 4) -> Latencies:
    """Sends the requests at ``rate`` per second, over the connections in turn, and waits for all responses.

    Raises:
        LoadError: calls got no response, or a connection was closed.
    """
    loop = _Loop(port, requests, schedule(len(requests), rate), connections)
    gc.collect()
    gc.disable()  # a collection would delay calls
    try:
        return loop.run()
    finally:
        gc.enable()
        loop.close()


class _Loop:
    def __init__(self, port: int, requests: Sequence[Request], times: Sequence[float], connections: int) -> None:
        self._requests = requests
        self._times = times
        self._readers = [AnswerReader(Connection(port)) for _ in range(connections)]
        self._by_socket = {reader.connection.socket: index for index, reader in enumerate(self._readers)}
        self._scheduled: list[dict[int, float]] = [{} for _ in self._readers]  # by connection and stream
        self._latencies: list[float] = []
        self._delays: list[float] = []
        self._sent = 0

    def run(self) -> Latencies:
        started, cpu_started = time.perf_counter(), time.process_time()
        last = self._times[-1]
        while len(self._latencies) < len(self._requests):
            now = time.perf_counter() - started
            self._send_due(now)
            if now > last + _ANSWER_SECONDS:
                raise LoadError(f"{len(self._requests) - len(self._latencies)} calls were not answered")
            self._read(started)
        seconds = time.perf_counter() - started
        return Latencies(
            sorted(self._latencies),
            sorted(self._delays),
            sum(reader.errors for reader in self._readers),
            sum(reader.data_bytes for reader in self._readers),
            (time.process_time() - cpu_started) / seconds,
        )

    def _send_due(self, now: float) -> None:
        times, sent = self._times, self._sent
        while sent < len(times) and times[sent] <= now:
            index = sent % len(self._readers)
            reader = self._readers[index]
            reader.send((self._requests[sent],))
            self._scheduled[index][reader.connection.stream] = times[sent]
            self._delays.append(now - times[sent])
            sent += 1
        self._sent = sent

    def _read(self, started: float) -> None:
        """Waits until the next call is due or responses arrive. The timer of select is finer than that of epoll."""
        if self._sent < len(self._times):
            wait = max(0.0, started + self._times[self._sent] - time.perf_counter())
        else:
            wait = 1.0
        ready, _, _ = select.select(list(self._by_socket), (), (), wait)
        for connection in ready:
            index = self._by_socket[connection]
            ended = self._readers[index].read()
            now = time.perf_counter() - started
            self._latencies += [now - self._scheduled[index].pop(stream) for stream in ended]

    def close(self) -> None:
        for reader in self._readers:
            reader.connection.close()
