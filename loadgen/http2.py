"""A small HTTP/2 client over plain sockets, for loads that h2load cannot generate.

h2load sends the same body repeatedly, reads as fast as possible, and does not report the time to the first chunk.
AddUser needs different bodies, and a stalled reader must not read. This client encodes all requests before the
measurement and parses only the headers of received frames, so that a call takes a few microseconds of CPU time in the
client.
"""

import selectors
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from google.protobuf.message import Message

from loadgen.errors import LoadError
from loadgen.h2load import grpc_frame

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_INITIAL_WINDOW_SIZE = 4  # of SETTINGS
_CANCEL = 8  # of RST_STREAM
_DEFAULT_WINDOW = 65535  # bytes
LARGEST_WINDOW = 2**31 - 1
_HEAD_BYTES = 9
_READ_BYTES = 1 << 18
_TIMEOUT_SECONDS = 60.0
_PAUSE_SECONDS = 0.01  # after a cancelled stream, so that its last read of the store does not delay the next stream


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Encodes a frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _text(value: str) -> bytes:
    return bytes((len(value),)) + value.encode("ascii")


def header_block(method: str, package: str = "userservice.v1", token: str = "") -> bytes:
    """Encodes the headers of a call to ``package.Service/Method`` in HPACK (RFC 7541), without the dynamic table."""
    authorization = b"\x00" + _text("authorization") + _text(f"Bearer {token}") if token else b""
    return b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _text(f"/{package}.{method}"),
            b"\x01" + _text("127.0.0.1"),  # :authority
            b"\x0f\x10" + _text("application/grpc"),  # content-type
            b"\x00" + _text("te") + _text("trailers"),
            authorization,
        )
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """The header of a received frame."""

    kind: int
    flags: int
    stream: int
    length: int
    payload: bytes  # of HEADERS frames, and of DATA frames if the connection keeps data; otherwise empty

    @property
    def is_data(self) -> bool:
        """Whether the frame contains a message or a part of a message."""
        return self.kind == _DATA

    @property
    def ends_call(self) -> bool:
        """Whether the frame is the last frame of its call."""
        return self.kind in {_DATA, _HEADERS} and bool(self.flags & _END_STREAM)


class Connection:
    """One HTTP/2 connection.

    Args:
        port: port of the server on 127.0.0.1.
        window: flow-control window in bytes, of the connection and of each stream.
        stream_window: flow-control window of each stream, if it differs from ``window``.
        keeps_data: whether DATA frames keep their payload.
    """

    def __init__(
        self, port: int, window: int = LARGEST_WINDOW, stream_window: int | None = None, *, keeps_data: bool = False
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), _TIMEOUT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        on_a_stream = window if stream_window is None else stream_window
        settings = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + on_a_stream.to_bytes(4, "big")
        greeting = _PREFACE + frame(_SETTINGS, 0, 0, settings)
        if window > _DEFAULT_WINDOW:
            greeting += frame(_WINDOW_UPDATE, 0, 0, (window - _DEFAULT_WINDOW).to_bytes(4, "big"))
        self.socket.sendall(greeting)
        self.stream = -1
        self._received = bytearray()
        self._kept = {_HEADERS, _DATA} if keeps_data else {_HEADERS}

    def request(self, header_block: bytes, body: bytes) -> bytes:
        """Returns the frames of the next call."""
        self.stream += 2
        headers = frame(_HEADERS, _END_HEADERS, self.stream, header_block)
        return headers + frame(_DATA, _END_STREAM, self.stream, body)

    def frames(self) -> Iterator[Frame]:
        """Waits for bytes, yields the complete frames, and acknowledges SETTINGS and PING frames."""
        data = self.socket.recv(_READ_BYTES)
        if not data:
            raise LoadError("the server closed the connection")
        received = self._received
        received += data
        position = 0
        while position + _HEAD_BYTES <= len(received):
            length = int.from_bytes(received[position : position + 3], "big")
            end = position + _HEAD_BYTES + length
            if end > len(received):
                break
            kind, flags = received[position + 3], received[position + 4]
            if kind in {_SETTINGS, _PING} and not flags & _ACK:
                pinged = bytes(received[position + _HEAD_BYTES : end]) if kind == _PING else b""
                self.socket.sendall(frame(kind, _ACK, 0, pinged))
            elif kind in {_RST_STREAM, _GOAWAY}:
                raise LoadError("the server reset a stream or closed the connection")
            stream = int.from_bytes(received[position + 5 : position + _HEAD_BYTES], "big")
            payload = bytes(received[position + _HEAD_BYTES : end]) if kind in self._kept else b""
            yield Frame(kind, flags, stream, length, payload)
            position = end
        del received[:position]

    @staticmethod
    def reset(stream: int) -> bytes:
        """Returns the frame that cancels a call."""
        return frame(_RST_STREAM, 0, stream, _CANCEL.to_bytes(4, "big"))

    def cancel(self) -> None:
        """Cancels the last call. Reads until the server has processed the cancellation."""
        self.socket.sendall(self.reset(self.stream) + frame(_PING, 0, 0, bytes(8)))
        while not any(frame.kind == _PING and frame.flags & _ACK for frame in list(self.frames())):
            pass

    def close(self) -> None:
        """Closes the connection."""
        self.socket.close()


@dataclass(frozen=True, slots=True)
class Answers:
    """The result of many calls.

    Attributes:
        calls: number of calls that got a response.
        seconds: time from the first request to the last response.
        data_bytes: size of all received messages.
        errors: number of responses without a message, whose status is an error.
        cpu_seconds: CPU time of this process.
    """

    calls: int
    seconds: float
    data_bytes: int
    errors: int = 0
    cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """A call, encoded in advance: ``header_block`` and ``grpc_frame``."""

    headers: bytes
    body: bytes


def call_all(port: int, method: str, bodies: Sequence[bytes], *, connections: int, streams: int) -> Answers:
    """Makes one call for each body (see ``grpc_frame``), on ``connections`` with ``streams`` calls each at a time."""
    block = header_block(method)
    return call_each(port, [Request(block, body) for body in bodies], connections=connections, streams=streams)


def call_each(port: int, requests: Sequence[Request], *, connections: int, streams: int) -> Answers:
    """Makes each of these calls once, on ``connections`` with ``streams`` calls each at a time."""
    waiting = iter(requests)
    selector = selectors.DefaultSelector()
    readers = [AnswerReader(Connection(port)) for _ in range(connections)]
    unanswered = len(requests)
    started, cpu_started = time.perf_counter(), time.process_time()
    for reader in readers:
        selector.register(reader.connection.socket, selectors.EVENT_READ, reader)
        reader.send(islice(waiting, streams))
    while unanswered:
        ready = selector.select(_TIMEOUT_SECONDS)
        if not ready:
            raise LoadError(f"{unanswered} calls got no response")
        for event, _ in ready:
            answered = len(event.data.read())
            unanswered -= answered
            event.data.send(islice(waiting, answered))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    for reader in readers:
        reader.connection.close()
    selector.close()
    data_bytes, errors = sum(reader.data_bytes for reader in readers), sum(reader.errors for reader in readers)
    return Answers(len(requests), seconds, data_bytes, errors, cpu_seconds)


class AnswerReader:
    """Sends unary calls on a connection, and counts their responses.

    Attributes:
        connection: the connection.
        data_bytes: size of all received messages.
        errors: number of responses without a message, whose status is an error.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.data_bytes = 0
        self.errors = 0
        self._with_data: set[int] = set()  # streams that have received a message, but not their status

    def send(self, requests: Iterable[Request]) -> None:
        """Sends these calls in one write."""
        frames = [self.connection.request(request.headers, request.body) for request in requests]
        if frames:
            self.connection.socket.sendall(b"".join(frames))

    def read(self) -> list[int]:
        """Reads once; returns the streams whose responses have ended."""
        ended = []
        for frame in self.connection.frames():
            if frame.is_data:
                self.data_bytes += frame.length
                self._with_data.add(frame.stream)
            if frame.ends_call:
                ended.append(frame.stream)
                if frame.stream in self._with_data:
                    self._with_data.discard(frame.stream)
                else:
                    self.errors += 1
        return ended


def first_bytes(connection: Connection, method: str, request: Message, *, needed: int) -> float:
    """Returns the seconds until ``needed`` bytes of a stream have arrived; then cancels the stream."""
    frames = connection.request(header_block(method), grpc_frame(request))
    started = time.perf_counter()
    connection.socket.sendall(frames)
    received = 0
    while received < needed:
        frames_now = list(connection.frames())
        received += sum(frame.length for frame in frames_now if frame.is_data and frame.stream == connection.stream)
    seconds = time.perf_counter() - started
    connection.cancel()
    time.sleep(_PAUSE_SECONDS)
    return seconds


def stalled(port: int, method: str, request: Message) -> Connection:
    """Opens a stream without reading it, with the default window of HTTP/2."""
    connection = Connection(port, _DEFAULT_WINDOW)
    connection.socket.sendall(connection.request(header_block(method), grpc_frame(request)))
    return connection
