"""Queues the writers of one record within a process, so that their writes do not conflict."""

import asyncio
from collections import deque
from typing import TypeAlias

from userservice_server.domain.ports import Table
from userservice_server.errors import UpdateConflictError

MAX_WAITING = 1000  # waiting writers of one record; further writers are rejected

# In every fourth turn, the writer reads the record again instead of receiving it from the previous writer. Otherwise
# the process that wrote last would always write first again, and the writers in other processes would starve.
_TURNS_PER_READ = 4

Place: TypeAlias = tuple[Table, str]
"""Identifies a record: its table, and its key in the table."""


class _Line(deque[asyncio.Future[bytes]]):
    """The futures of the waiting writers, and the number of turns so far."""

    turns = 0


class Turns:
    """Lets the writers of each record write one after the other, first come, first served.

    With compare-and-set alone, many writers of one record conflict: of 200 writers, only one succeeded in each round,
    and some never succeeded.
    """

    def __init__(self) -> None:
        self._lines: dict[Place, _Line] = {}

    async def take(self, place: Place) -> bytes:
        """Waits for the turn to write a record. The writer must call ``pass_on`` afterwards.

        Returns:
            The record that the previous writer passed on; empty if there was none, or if the record must be read again.

        Raises:
            UpdateConflictError: too many writers are waiting.
        """
        line = self._lines.get(place)
        if line is None:
            self._lines[place] = _Line()
            return b""
        if len(line) >= MAX_WAITING:
            raise UpdateConflictError("too many concurrent writes; nothing was changed, retry")
        turn: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn in line:
                line.remove(turn)
            elif not turn.cancelled():  # the turn came at the same time as the cancellation
                self.pass_on(place, turn.result())
            raise

    def pass_on(self, place: Place, record: bytes) -> None:
        """Ends a turn: passes the present record (empty if unknown) to the next waiting writer."""
        line = self._lines[place]
        while line:
            turn = line.popleft()
            if not turn.done():
                line.turns += 1
                turn.set_result(record if line.turns % _TURNS_PER_READ else b"")
                return
        del self._lines[place]
