"""Imports users at a steady rate while a store fails over or moves slots.

The service shares two cores with its store and its clients, so single calls do not reach thousands of writes per second
beside other work.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

from harness.connections import Stubs
from harness.population import read_chunks
from userservice import AddUserFields, ImportOffsetGapError, ImportStatus, UserManager

_TICK = 0.02  # seconds
_NEW = 10  # one of this number of rows adds a user


class SteadyImports:
    """Imports rows, one import after the other, of a second each: most rows are merged into users, others add users.

    Args:
        address: the address of the service.
        users: user_ids of existing users; rows are merged into them in turn.
        rate: rows per second.
        timeout: the time limit in seconds for each response; must be longer than an outage of the store.

    Attributes:
        applied: number of rows that were applied or failed.
        failed: number of rows that failed.
        broken: number of imports that could not continue because the store had lost rows of the import.
    """

    def __init__(self, address: str, users: Sequence[str], rate: int, timeout: float = 30.0) -> None:
        self.applied = self.failed = self.broken = 0
        self._address, self._users, self._rate, self._timeout = address, users, rate, timeout
        self._next = 0
        self._started = 0.0
        self._is_ending = False

    def _user_id(self, number: int) -> str:
        return f"new{number}" if number % _NEW == 0 else self._users[number % len(self._users)]

    async def _rows(self, first: int) -> AsyncIterator[AddUserFields]:
        for number in range(first, first + self._rate):
            if (ahead := self._started + number / self._rate - time.monotonic()) > 0:
                await asyncio.sleep(ahead + _TICK)
            yield AddUserFields(user_id=self._user_id(number), metadata={"row": number})

    async def _run(self) -> None:
        self._started = time.monotonic()
        async with UserManager(self._address, timeout=self._timeout) as manager:
            while not self._is_ending:
                before = self.applied

                def count(status: ImportStatus, before: int = before) -> None:
                    self.applied = before + status.offset

                try:
                    status = await manager.import_users(
                        self._rows(self._next), import_id=str(uuid4()), on_duplicate="MERGE", on_progress=count
                    )
                except ImportOffsetGapError:
                    self.broken += 1
                else:
                    self.failed += status.failed
                self._next += self._rate

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Imports until the context ends, and then completes the current import."""
        task = asyncio.create_task(self._run())
        try:
            yield
            self._is_ending = True
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def missing(self, stubs: Stubs) -> list[str]:
        """Returns the users whose last row is not in the store."""
        last = {self._user_id(number): number for number in range(self._next)}
        found = {user.user_id: user for chunk in await read_chunks(stubs, 1000) for user in chunk.users}
        return [
            user_id
            for user_id, number in last.items()
            if user_id not in found or found[user_id].metadata["row"] != number
        ]
