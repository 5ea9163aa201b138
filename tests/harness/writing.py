"""Adds, updates and deletes at a steady rate, thousands a second: over bare HTTP/2, for a gRPC client in Python takes
more of two cores than the server leaves.
"""

import random
import select
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Self

from harness.population import struct
from loadgen.errors import LoadError
from loadgen.http2 import Connection, header_block
from userservice.v1.user_service_pb2 import AddUserRequest, UpdateUserRequest

AT_ONCE = 128
_TICK = 0.005  # seconds
_BLOCKS = {kind: header_block(f"UserService/{kind.capitalize()}User") for kind in ("add", "update", "delete")}
_VARIANTS = 500  # of updates


class SteadyWrites:
    """Writes from a thread of its own until left; what falls behind the rate is made up for.

    Users in `updated` are updated, and those in `deleted` and what is added is deleted, in that order. All fields of a
    write bear the same mark: the e-mail, and `twin` in the metadata.

    Attributes:
        done: the writes that succeeded, by their kind, and "failed".
    """

    def __init__(
        self, port: int, rate: float, updated: Iterable[str], deleted: Iterable[str], dice: random.Random
    ) -> None:
        self.done: Counter[str] = Counter()
        self._port, self._rate, self._dice = port, rate, dice
        self._updated, self._deleted = list(updated), deque(deleted)
        self._added = 0
        self._rest = {"add": [_added()], "update": [_updated(dice) for _ in range(_VARIANTS)], "delete": [b""]}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @property
    def succeeded(self) -> int:
        return self.done.total() - self.done["failed"]

    def _run(self) -> None:
        started, ended = time.monotonic(), 0
        while not self._stop.is_set():
            try:
                connection = Connection(self._port)
            except OSError:  # it is being restarted
                self._stop.wait(0.02)
                continue
            try:
                link = _Link(connection)
                while not self._stop.is_set():
                    link.send(int((time.monotonic() - started) * self._rate) - ended - len(link.open), self._write)
                    answered = link.answers()
                    ended += answered.total()
                    self.done += answered
            except (LoadError, OSError):
                pass  # the running calls are lost, and their outcomes are unknown
            finally:
                connection.close()

    def _write(self) -> tuple[str, bytes]:
        """Returns the kind and the request of the next write.

        The request is assembled from parts, because encoding is slow.
        """
        kind = self._dice.choice(("add", "update", "update", "delete") if self._deleted else ("add", "update"))
        match kind:
            case "add":
                self._added += 1
                user_id = f"new{self._added}"
                self._deleted.append(user_id)
            case "update":
                user_id = self._dice.choice(self._updated)
            case _:
                user_id = self._deleted.popleft()
        name = user_id.encode()
        body = b"\x0a" + bytes((len(name),)) + name + self._dice.choice(self._rest[kind])  # 0x0a: field 1 of each
        return kind, b"\0" + len(body).to_bytes(4, "big") + body

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class _Link:
    """The running calls of one connection."""

    def __init__(self, connection: Connection) -> None:
        self.open: dict[int, str] = {}
        self._connection = connection
        self._succeeded: set[int] = set()

    def send(self, wanted: int, write: Callable[[], tuple[str, bytes]]) -> None:
        """Sends up to the given number of writes, as far as flow control allows."""
        out = []
        for _ in range(min(wanted, AT_ONCE - len(self.open))):
            kind, request = write()
            out.append(self._connection.request(_BLOCKS[kind], request))
            self.open[self._connection.stream] = kind
        self._connection.socket.sendall(b"".join(out))

    def answers(self) -> Counter[str]:
        """Waits briefly for responses.

        A response with a message is a success, and one without a message is a failure.
        """
        counts: Counter[str] = Counter()
        if not select.select([self._connection.socket], [], [], _TICK)[0]:
            return counts
        for frame in self._connection.frames():
            if frame.is_data:
                self._succeeded.add(frame.stream)
            if frame.ends_call:
                kind = self.open.pop(frame.stream)
                counts[kind if frame.stream in self._succeeded else "failed"] += 1
                self._succeeded.discard(frame.stream)
        return counts


def _added() -> bytes:
    return AddUserRequest(email="0", metadata=struct({"twin": "0"})).SerializeToString()


def _updated(dice: random.Random) -> bytes:
    mark = f"{dice.randrange(1 << 30)}"
    metadata = struct({"twin": mark, "filling": "x" * dice.randrange(300)})
    return UpdateUserRequest(email=mark, metadata=metadata).SerializeToString()
