"""HTTP/2 floods: a connection that sends as fast as it can uses bounded memory, and other callers are served."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from harness.connections import connect_blocking, health
from harness.services import Service, peak, resident
from harness.sizing import sized
from harness.stores import Store

from loadgen.h2load import grpc_frame
from loadgen.http2 import Connection, frame, header_block
from userservice.v1.user_service_pb2 import AddUserRequest, GetUserRequest

pytestmark = pytest.mark.long

MIB = 1 << 20
MOST_GROWTH = 100 * MIB  # a flood that has no limit takes several times as much
STREAMS = sized(30_000, 200_000)
FRAMES = sized(50_000, 1_000_000)
AT_ONCE = 200
HEADERS, SETTINGS, PING, CONTINUATION = 1, 4, 6, 9
ACK, END_HEADERS = 1, 4
BLOCK = header_block("UserService/GetUser")
BODY = grpc_frame(GetUserRequest(user_id="ada"))


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Store() as store, Service("--access-log", "false", redis_url=store.url) as service:
        yield service
        assert service.stop() == 0


def rapid_reset(connection: Connection) -> bytes:
    return b"".join(connection.request(BLOCK, BODY) + connection.reset(connection.stream) for _ in range(AT_ONCE))


def open_streams(connection: Connection) -> bytes:
    """Sends calls whose requests never end."""
    first = connection.stream + 2
    connection.stream += 2 * AT_ONCE
    return b"".join(frame(HEADERS, END_HEADERS, stream, BLOCK) for stream in range(first, connection.stream + 1, 2))


def settings(_: Connection) -> bytes:
    return frame(SETTINGS, 0, 0, b"") * AT_ONCE


def pings(_: Connection) -> bytes:
    return frame(PING, 0, 0, bytes(8)) * AT_ONCE


def continuations(connection: Connection) -> bytes:
    """Sends headers that never end."""
    header = b"\x00\x01a\x7f\x81\x7d" + b"x" * 16_000  # a literal of 127 + 1 + 125 * 128 = 16 128 bytes, less 128
    start = b"" if connection.stream > 0 else frame(HEADERS, 0, 1, BLOCK)
    connection.stream = 1
    return start + frame(CONTINUATION, 0, 1, header)


FLOODS: dict[Callable[[Connection], bytes], int] = {
    rapid_reset: STREAMS // AT_ONCE,
    open_streams: STREAMS // AT_ONCE,
    settings: FRAMES // AT_ONCE,
    pings: FRAMES // AT_ONCE,
    continuations: 2000,
}


class Flood:
    """A flood: sends its rounds, opens a new connection if the server closes one, and keeps the last one open."""

    def __init__(self, port: int) -> None:
        self.connections = 0
        self._port = port
        self._open: list[Connection] = []

    def send(self, make: Callable[[Connection], bytes], rounds: int) -> None:
        while rounds > 0:
            connection = self._connect()
            with contextlib.suppress(OSError):
                while rounds > 0:
                    rounds -= 1
                    connection.socket.sendall(make(connection))

    def _connect(self) -> Connection:
        self.close()
        connection = Connection(self._port)
        connection.socket.sendall(frame(SETTINGS, ACK, 0, b""))
        self.connections += 1
        self._open.append(connection)
        threading.Thread(target=drain, args=(connection,), daemon=True).start()
        return connection

    def close(self) -> None:
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()


def drain(connection: Connection) -> None:
    with contextlib.suppress(OSError):
        while connection.socket.recv(1 << 18):
            pass


@pytest.mark.parametrize("make", FLOODS)
def test_a_flood_uses_bounded_memory(service: Service, make: Callable[[Connection], bytes]) -> None:
    flood = Flood(service.port)
    with connect_blocking(service.address) as stubs, contextlib.closing(flood):
        stubs.users.AddUser(AddUserRequest(user_id=make.__name__))
        before = resident(service.pid)
        flood.send(make, FLOODS[make])
        answered = stubs.users.GetUser(GetUserRequest(user_id=make.__name__), timeout=60).user.user_id
        grown = peak(service.pid) - before
        print(f"{make.__name__}: {flood.connections} connections, {grown / MIB:.0f} MiB")  # noqa: T201
        assert answered == make.__name__
        assert grown < MOST_GROWTH
    assert health(service.address) == "SERVING"
