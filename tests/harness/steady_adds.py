"""Adds users one after the other for the time of a failover, and measures how long calls failed."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from itertools import count
from uuid import uuid4

import grpc

from harness.connections import Stubs
from harness.failures import failure_of
from userservice.v1.user_service_pb2 import AddUserRequest

_LONGEST_OUTAGE = 30.0


class SteadyAdds:
    """Adds users, and repeats each add with its request_id until it is acknowledged.

    Attributes:
        acknowledged: the user_ids of acknowledged adds, in this order.
        reasons: the reasons of all failed attempts.
        longest: the longest time in seconds from the first attempt of an add to its acknowledgement.
    """

    def __init__(self, stubs: Stubs, prefix: str = "w", pause: float = 0.002) -> None:
        self.acknowledged: list[str] = []
        self.reasons: set[str] = set()
        self.longest = 0.0
        self._stubs, self._prefix, self._pause = stubs, prefix, pause
        self._is_ending = False

    async def _run(self) -> None:
        for number in count():
            if self._is_ending:
                return
            await self._add(f"{self._prefix}{number}")
            await asyncio.sleep(self._pause)

    async def _add(self, user_id: str) -> None:
        request = AddUserRequest(user_id=user_id, request_id=str(uuid4()))
        started = time.monotonic()
        while True:
            try:
                await self._stubs.users.AddUser(request, timeout=10)
            except grpc.aio.AioRpcError as error:
                self.reasons.add(failure_of(error).reason)
                assert time.monotonic() - started < _LONGEST_OUTAGE, self.reasons
                await asyncio.sleep(0.01)
            else:
                break
        self.longest = max(self.longest, time.monotonic() - started)
        self.acknowledged.append(user_id)

    async def another(self) -> None:
        """Waits until the next add is acknowledged."""
        seen = len(self.acknowledged)
        async with asyncio.timeout(_LONGEST_OUTAGE):
            while len(self.acknowledged) == seen:  # noqa: ASYNC110 - the writer sets no event
                await asyncio.sleep(0.005)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
            self._is_ending = True
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
