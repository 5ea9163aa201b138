"""`python -m benchmarks.writer PORT RATE SECONDS PREFIX`: adds users at a constant rate, without grpcio.

At most ``_IN_FLIGHT`` calls run at a time, so the rate is lower if the service is slower. Prints as JSON when each call
was sent, and when its reply arrived (``time.monotonic``). All requests are encoded before the first one is sent.
"""

import gc
import json
import select
import sys
import time
from collections.abc import Sequence

from benchmarks.errors import BenchError
from benchmarks.population import users
from loadgen.h2load import grpc_frame
from loadgen.http2 import AnswerReader, Connection, Request, header_block
from userservice.v1.user_service_pb2 import AddUserRequest

_CONNECTIONS = 8  # enough for each worker to get some of them
_IN_FLIGHT = 256
_ANSWER_SECONDS = 60.0


def user_id(prefix: str, number: int) -> str:
    """Returns the user_id of the user that the call with this number adds."""
    return f"{prefix}-{number:07d}"


def _requests(prefix: str, count: int) -> list[Request]:
    block, rows, made = header_block("UserService/AddUser"), users(min(count, 1000)), []
    for number in range(count):
        row = rows[number % len(rows)]
        name = user_id(prefix, number)
        request = AddUserRequest(
            user_id=name, email=f"{name}@mail.example", first_name=row.first_name, last_name=row.last_name
        )
        made.append(Request(block, grpc_frame(request)))
    return made


class _Writer:
    """Sends the calls and records their times.

    Attributes:
        sent: when each call was sent.
        replied: when the reply to each of these calls arrived.
    """

    def __init__(self, port: int, requests: Sequence[Request]) -> None:
        self.sent: list[float] = []
        self.replied = [0.0] * len(requests)
        self._requests = requests
        self._readers = [AnswerReader(Connection(port)) for _ in range(_CONNECTIONS)]
        self._by_socket = {reader.connection.socket: place for place, reader in enumerate(self._readers)}
        self._running: list[dict[int, int]] = [{} for _ in self._readers]  # the number of a call, by its stream
        self._in_flight = 0

    def run(self, rate: float, seconds: float) -> None:
        started = time.monotonic()
        end = started + seconds
        while True:
            now = time.monotonic()
            is_sending = now < end and len(self.sent) < len(self._requests)
            if is_sending:
                self._send_due(started, rate)
            elif not self._in_flight:
                return
            elif now > end + _ANSWER_SECONDS:
                raise BenchError(f"{self._in_flight} calls were not answered")
            due = started + len(self.sent) / rate - time.monotonic() if is_sending else 1.0
            self._read(1.0 if self._in_flight == _IN_FLIGHT else max(0.0, due))

    def _send_due(self, started: float, rate: float) -> None:
        due = min(len(self._requests), int((time.monotonic() - started) * rate) + 1)
        while len(self.sent) < due and self._in_flight < _IN_FLIGHT:
            number = len(self.sent)
            place = number % len(self._readers)
            self.sent.append(time.monotonic())
            self._readers[place].send((self._requests[number],))
            self._running[place][self._readers[place].connection.stream] = number
            self._in_flight += 1

    def _read(self, wait: float) -> None:
        ready, _, _ = select.select(list(self._by_socket), (), (), wait)
        for connection in ready:
            place = self._by_socket[connection]
            ended = self._readers[place].read()
            now = time.monotonic()
            for stream in ended:
                self.replied[self._running[place].pop(stream)] = now
            self._in_flight -= len(ended)

    def close(self) -> None:
        for reader in self._readers:
            reader.connection.close()
        if errors := sum(reader.errors for reader in self._readers):
            raise BenchError(f"{errors} calls failed")


def _main(port: str, rate: str, seconds: str, prefix: str) -> None:
    requests = _requests(prefix, int(float(rate) * float(seconds)))
    writer = _Writer(int(port), requests)
    gc.collect()
    gc.disable()  # a collection would delay calls
    writer.run(float(rate), float(seconds))
    writer.close()
    sys.stdout.write(json.dumps({"called": writer.sent, "replied": writer.replied[: len(writer.sent)]}) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
