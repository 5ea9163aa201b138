"""`python -m benchmarks.watchers PORT COUNT VIEW`: follows changes with many watches, and prints what arrived.

Prints ``ready`` when all watches have started. Then reads one line: the number of users that were added meanwhile.
Prints as JSON how many changes are missing and how many messages with changes arrived, over all watches, and when each
user arrived at the first watch (``time.monotonic``). While changes arrive, this process only reads frames, without
grpcio, so that it takes little CPU time. It decodes the messages when no more changes arrive.
"""

import gc
import json
import select
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from loadgen.h2load import grpc_frame
from loadgen.http2 import Connection, header_block
from userservice.v1.user_watch_pb2 import WatchUsersRequest, WatchUsersResponse
from userservice.v1.view_pb2 import View

_PER_CONNECTION = 20
_QUIET_SECONDS = 2.0  # time without a change until the messages are decoded; the server reads at least every second
_IDLE_SECONDS = 15.0  # time without a change until missing changes count as lost
_HEARTBEAT_BYTES = 256  # the largest message that counts as a heartbeat
_GRPC_HEAD_BYTES = 5


class _Watch:
    """The frames of one watch, with the times of their arrival.

    Attributes:
        users: when each user arrived.
        messages: number of messages with changes.
    """

    def __init__(self) -> None:
        self.users: dict[str, float] = {}
        self.messages = 0
        self._frames: list[tuple[float, bytes]] = []
        self._rest = bytearray()

    @property
    def has_begun(self) -> bool:
        """Whether a message has arrived."""
        return bool(self._frames)

    def add(self, now: float, content: bytes) -> None:
        self._frames.append((now, content))

    def decode(self) -> int:
        """Decodes the messages; returns how many users have arrived."""
        for arrived, message in self._messages():
            changes = WatchUsersResponse.FromString(message).changes
            self.messages += bool(changes)
            for change in changes:
                self.users.setdefault(change.user.user_id, arrived)
        return len(self.users)

    def _messages(self) -> Iterator[tuple[float, bytes]]:
        """Yields the complete messages, with the times of their last frames; drops the frames."""
        frames, self._frames = self._frames, []
        for arrived, content in frames:
            self._rest += content
            while len(self._rest) >= _GRPC_HEAD_BYTES:
                end = _GRPC_HEAD_BYTES + int.from_bytes(self._rest[1:_GRPC_HEAD_BYTES], "big")
                if len(self._rest) < end:
                    break
                yield arrived, bytes(self._rest[_GRPC_HEAD_BYTES:end])
                del self._rest[:end]


class _Watches:
    """Reads watches over several connections.

    Attributes:
        watches: the watches.
        changed_at: when the last change arrived.
    """

    def __init__(self, port: int, count: int, view: "View.ValueType") -> None:
        self.watches: list[_Watch] = []
        self.changed_at = time.monotonic()
        self._by_stream: dict[Connection, dict[int, _Watch]] = {}
        request = grpc_frame(WatchUsersRequest(now=True, view=view, heartbeat_seconds=1))
        block = header_block("UserService/WatchUsers")
        for start in range(0, count, _PER_CONNECTION):
            connection = Connection(port, keeps_data=True)
            streams = self._by_stream[connection] = {}
            for _ in range(start, min(count, start + _PER_CONNECTION)):
                connection.socket.sendall(connection.request(block, request))
                streams[connection.stream] = _Watch()
            self.watches += streams.values()

    def read(self, seconds: float, *others: int) -> bool:
        """Reads what arrives within this time; returns whether one of the other files can be read."""
        by_socket: dict[Any, Connection] = {connection.socket: connection for connection in self._by_stream}
        ready, _, _ = select.select([*by_socket, *others], (), (), seconds)
        for connection in [by_socket[each] for each in ready if each in by_socket]:
            frames = list(connection.frames())
            now = time.monotonic()
            for frame in frames:
                if frame.ends_call:
                    raise SystemExit("the service ended a watch; see its log")
                if frame.is_data:
                    self._by_stream[connection][frame.stream].add(now, frame.payload)
                    if frame.length > _HEARTBEAT_BYTES:
                        self.changed_at = now
        return any(each in others for each in ready)

    def decoded(self, expected: int) -> Sequence[_Watch]:
        """Returns the watches when all of them have received all users, or when no change arrives for a long time."""
        quiet = _QUIET_SECONDS
        while True:
            while time.monotonic() < self.changed_at + quiet:
                self.read(quiet / 10)
            found = sum(watch.decode() for watch in self.watches)
            if found == expected * len(self.watches) or quiet >= _IDLE_SECONDS:
                return self.watches
            quiet = _IDLE_SECONDS


def _main(port: str, count: str, view: str) -> None:
    reading = _Watches(int(port), int(count), View.Value(view))
    while not all(watch.has_begun for watch in reading.watches):
        reading.read(1)
    gc.collect()
    gc.disable()  # a collection would delay reads
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not reading.read(1, sys.stdin.fileno()):
        pass
    expected = int(sys.stdin.readline())
    watches = reading.decoded(expected)
    lost = sum(expected - len(watch.users) for watch in watches)
    messages = sum(watch.messages for watch in watches)
    sys.stdout.write(json.dumps({"lost": lost, "messages": messages, "arrived": watches[0].users}) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
