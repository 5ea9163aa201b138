"""Streams that are opened and left in the middle, thousands a second: over bare HTTP/2, for a gRPC client costs more
than the server does.
"""

import random
from collections.abc import Sequence

from loadgen.h2load import grpc_frame
from loadgen.http2 import LARGEST_WINDOW, Connection, header_block
from userservice.v1.user_service_pb2 import ListUsersChunkedRequest

AT_ONCE = 32
STREAMS_A_CONNECTION = 5000  # connections are left too
STREAM_WINDOW = 65_535  # bytes: of a large chunk the server is left waiting with the rest
_METHOD = "UserService/ListUsersChunked"


def abandon_streams(port: int, count: int, chunk_sizes: Sequence[int], dice: random.Random) -> tuple[int, int]:
    """Opens streams and cancels half of them immediately, and half after the first part of the response.

    Returns how many were cancelled at once, and how many with an answer under way.
    """
    at_once = answered = 0
    while (left := count - at_once - answered) > 0:
        connection = Connection(port, LARGEST_WINDOW, STREAM_WINDOW)
        try:
            more = _Streams(connection, chunk_sizes, dice).abandon(min(left, STREAMS_A_CONNECTION))
        finally:
            connection.close()
        at_once, answered = at_once + more[0], answered + more[1]
    return at_once, answered


class _Streams:
    """The streams of one connection."""

    def __init__(self, connection: Connection, chunk_sizes: Sequence[int], dice: random.Random) -> None:
        self._connection, self._dice = connection, dice
        self._header_block = header_block(_METHOD)
        self._bodies = [grpc_frame(ListUsersChunkedRequest(chunk_size=size)) for size in chunk_sizes]
        self._open: set[int] = set()

    def abandon(self, count: int) -> tuple[int, int]:
        at_once = answered = 0
        while at_once + answered < count:
            out: list[bytes] = []
            while len(self._open) < min(AT_ONCE, count - at_once - answered):
                out.append(self._connection.request(self._header_block, self._dice.choice(self._bodies)))
                if self._dice.random() < 0.5:
                    out.append(self._connection.reset(self._connection.stream))
                    at_once += 1
                else:
                    self._open.add(self._connection.stream)
            self._connection.socket.sendall(b"".join(out))
            if self._open:
                answered += self._leave_those_that_answered()
        return at_once, answered

    def _leave_those_that_answered(self) -> int:
        begun = {frame.stream for frame in self._connection.frames() if frame.is_data} & self._open
        self._open -= begun
        self._connection.socket.sendall(b"".join(map(self._connection.reset, begun)))
        return len(begun)
