"""Reads parts of all users side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from userservice._chunks import ChunkReader
from userservice._connection import Connection
from userservice.errors import FieldViolation
from userservice.models import UserPage, UserScanPart
from userservice.requests import reject

MOST_PARALLEL = 64
"""The maximum number of streams of one `list_chunked`."""


def check_scan(cursor: int, parallel: int, parts: Iterable[Sequence[int]] | None) -> Sequence[UserScanPart] | None:
    """Checks which parts a `list_chunked` reads, and how many side by side; returns the parts that were given.

    Raises:
        InvalidArgumentError: If an argument is invalid, or if there is a cursor although parts are read.
    """
    violations = []
    if not isinstance(parallel, int) or isinstance(parallel, bool) or not 1 <= parallel <= MOST_PARALLEL:
        violations.append(FieldViolation("parallel", f"must be an integer from 1 to {MOST_PARALLEL}"))
    elif cursor and (parts is not None or parallel > 1):
        violations.append(FieldViolation("cursor", "must be 0 with parallel or parts: the parts contain their cursors"))
    given = None
    try:
        given = None if parts is None else [UserScanPart(*part) for part in parts]
    except TypeError:
        violations.append(FieldViolation("parts", "must be a list of parts: partition, cursor and end_cursor"))
    if given and not all(isinstance(number, int) and number >= 0 for part in given for number in part):
        violations.append(FieldViolation("parts", "must have no negative numbers, and only integers"))
    elif given and not all(part.partition and part.end_cursor for part in given):
        violations.append(FieldViolation("parts", "must have a partition and an end_cursor above 0 in each part"))
    reject(violations)
    return given


class PartsReader:
    """Reads parts, several at a time, and returns their chunks in turn.

    Each part is a stream of its own. While the program handles a chunk of one part, the chunks of the others arrive.

    Args:
        connection: The connection to read from.
        fields: The fields of the requests by name, except those of a part.
        timeout: Seconds to wait for a chunk; None means the timeout of the connection.
        parts: The parts to read.
        parallel: The maximum number of streams at the same time.
    """

    def __init__(
        self,
        connection: Connection,
        fields: Mapping[str, object],
        timeout: float | None,
        parts: Iterable[UserScanPart],
        parallel: int,
    ) -> None:
        readers = [ChunkReader(connection, fields, timeout, part) for part in parts if part.cursor < part.end_cursor]
        self._reading = deque(readers[:parallel])
        self._waiting = deque(readers[parallel:])

    async def next_chunk(self) -> UserPage | None:
        """Returns the next chunk of the part whose turn it is, or None after the last part.

        Raises:
            UserServiceError: If no chunk arrived before the deadline, or the service rejected the request.
        """
        while self._reading:
            chunk = await self._reading[0].next_chunk()
            if chunk is not None:
                self._reading.rotate(-1)
                chunk.remaining = self._remaining()
                return chunk
            self._reading.popleft().cancel()
            if self._waiting:
                self._reading.append(self._waiting.popleft())
        return None

    def _remaining(self) -> list[UserScanPart]:
        parts = (reader.part for reader in (*self._reading, *self._waiting))
        return [part for part in parts if part is not None and part.cursor < part.end_cursor]

    def cancel(self) -> None:
        """Ends the running RPCs immediately. Must be called at the end, because nothing else ends an unread stream."""
        for reader in self._reading:
            reader.cancel()
