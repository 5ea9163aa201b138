"""Measures the limit of Redis: reads all records over a plain socket, in ranges of 1000 records."""

import socket
import time
from typing import Any

from hiredis import pack_command

from benchmarks.stores import USERS_KEY, Store
from userservice_server.wire.records import record_id

_COUNT = 1000  # records of one range


class RawRead:
    """Reads all records of a store, with the commands that the service sends.

    The commands and the lengths of the replies are computed in advance, so that the read only waits for bytes, and its
    time is the time of Redis and the socket.
    """

    def __init__(self, store: Store) -> None:
        records = store.records()
        starts = [0, *(record_id(record) for record in records[_COUNT - 1 :: _COUNT])]
        self._commands = [_range(start) for start in starts]
        self._lengths = [_reply_length(records[start : start + _COUNT]) for start in range(0, len(records) + 1, _COUNT)]
        self._buffer = memoryview(bytearray(max(self._lengths)))
        self._path = store.path

    def seconds(self) -> float:
        """Reads all records once; returns the seconds that it took."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._path)
            started = time.perf_counter()
            for command, length in zip(self._commands, self._lengths, strict=True):
                connection.sendall(command)
                received = 0
                while received < length:
                    received += connection.recv_into(self._buffer[received:length])
            return time.perf_counter() - started


def _range(after: int) -> bytes:
    command: Any = ("ZRANGE", USERS_KEY, f"({after}", "+inf", "BYSCORE", "LIMIT", 0, _COUNT)
    packed: bytes = pack_command(command)
    return packed


def _reply_length(records: list[bytes]) -> int:
    """Returns the size of a RESP array of the records."""
    return len(f"*{len(records)}\r\n") + sum(len(f"${len(record)}\r\n") + len(record) + 2 for record in records)
