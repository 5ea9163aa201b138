"""Many calls on bare HTTP/2 connections, which stay open until the server ends them."""

import contextlib
import selectors
import threading
from collections.abc import Iterator

from google.protobuf.message import Message

from loadgen import http2
from loadgen.h2load import grpc_frame

_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_END_STREAM, _ACK = 1, 1
_HEAD_BYTES = 9
_WINDOW = 65535


def block(path: str, **headers: str) -> bytes:
    """Returns the headers of a call to ``/package.Service/Method``, in HPACK."""

    def text(value: str) -> bytes:
        return bytes((len(value),)) + value.encode("ascii")

    made = http2.header_block("").replace(b"\x04" + text("/userservice.v1."), b"\x04" + text(path))
    return made + b"".join(b"\x00" + text(name.replace("_", "-")) + text(value) for name, value in headers.items())


class _Connection(http2.Connection):
    """A connection that counts the calls that the server ended with a status."""

    ended = 0

    def read(self) -> bool:
        """Reads once; returns False at the end of the connection."""
        try:
            data = self.socket.recv(1 << 18)
        except OSError:
            data = b""
        received = self._received
        received += data
        while len(received) >= _HEAD_BYTES and len(received) >= (
            end := _HEAD_BYTES + int.from_bytes(received[:3], "big")
        ):
            kind, flags = received[3], received[4]
            if kind in {_SETTINGS, _PING} and not flags & _ACK:
                payload = bytes(received[_HEAD_BYTES:end]) if kind == _PING else b""
                self.socket.sendall(http2.frame(kind, _ACK, 0, payload))
            self.ended += kind in {_DATA, _HEADERS} and bool(flags & _END_STREAM)
            del received[:end]
        return bool(data)


class Flood:
    """Calls that are open until their server ends them."""

    def __init__(self, port: int, connections: int) -> None:
        self.connections = [_Connection(port, _WINDOW) for _ in range(connections)]
        self.stopping = False

    @property
    def ended(self) -> list[int]:
        """How many calls of each connection have ended."""
        return [connection.ended for connection in self.connections]

    def read(self) -> None:
        with selectors.DefaultSelector() as selector:
            for connection in self.connections:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
            while not self.stopping:
                for event, _ in selector.select(0.05):
                    if not event.data.read():
                        selector.unregister(event.data.socket)


@contextlib.contextmanager
def flood(port: int, path: str, request: Message, calls: int, *, connections: int = 1) -> Iterator[Flood]:
    """Opens ``calls`` calls, distributed evenly over the connections; keeps them open while the block runs."""
    made = Flood(port, connections)
    reader = threading.Thread(target=made.read, daemon=True)
    reader.start()
    head, body = block(path), grpc_frame(request)
    try:
        for connection in made.connections:
            requests = (connection.request(head, body) for _ in range(calls // connections))
            connection.socket.sendall(b"".join(requests))
        yield made
    finally:
        made.stopping = True
        reader.join(10)
        for connection in made.connections:
            connection.close()
