"""Queues of the writers of one record within a process, so that they do not race each other."""

import asyncio
from collections import deque
from typing import TypeAlias

from userservice_server.domain.ports import Table
from userservice_server.errors import UpdateConflictError

MAX_WAITING = 1000  # writers of one record that wait for their turn; more are rejected

# Every so many turns the writer reads the record again instead of taking it from the writer before. Without this, the
# process that wrote last would always be the first to write again, and those of other processes would starve.
_TURNS_PER_READ = 4

Place: TypeAlias = tuple[Table, str]
"""A record: its table, and its key there."""


class _Line(deque[asyncio.Future[bytes]]):
    """Who waits for a turn, and how many turns there were."""

    turns = 0


class Turns:
    """Gives the writers of each record their turns, first come, first served.

    A compare-and-set alone lets many writers of one record race: of 200, one succeeded in a round, and some never did.
    """

    def __init__(self) -> None:
        self._lines: dict[Place, _Line] = {}

    async def take(self, place: Place) -> bytes:
        """Waits for the turn, which has to be passed on later; returns the record as the writer before knows it.

        Returns:
            What was given to ``pass_on``; empty where nobody was before, or the record is to be read again.

        Raises:
            UpdateConflictError: too many wait already.
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
            elif not turn.cancelled():  # the turn came at the same time
                self.pass_on(place, turn.result())
            raise

    def pass_on(self, place: Place, record: bytes) -> None:
        """Gives the turn to the next writer in the line, with the record as it is now, empty if unknown."""
        line = self._lines[place]
        while line:
            turn = line.popleft()
            if not turn.done():
                line.turns += 1
                turn.set_result(record if line.turns % _TURNS_PER_READ else b"")
                return
        del self._lines[place]
