"""Updates users during a failover; each update expects the etag of the last acknowledged one."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from uuid import uuid4

import grpc

from harness.connections import Stubs
from harness.failures import failure_of
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import GetUserRequest, UpdateUserRequest

_LONGEST_OUTAGE = 30.0


class ChainedUpdates:
    """Numbers the updates of each user, and repeats each update with its request_id until it is acknowledged.

    If an acknowledged update is lost, or an update is applied without its idempotency record, then the next update is
    rejected because its etag is not the current one: the chain is broken. It continues with the stored record.

    Attributes:
        acknowledged: the number of acknowledged updates.
        lost: acknowledged updates that a stored record does not contain.
        unrecorded: updates that were applied but rejected when they were repeated.
        failed: the failed attempts, by reason.
        confirmed: by user, the etags of its acknowledged updates.
        longest: by user, the longest time in seconds from the first attempt of an update to its acknowledgement.
    """

    def __init__(self, stubs: Stubs, users: Mapping[str, User], pause: float = 0.02) -> None:
        self.acknowledged = self.lost = self.unrecorded = 0
        self.failed: Counter[str] = Counter()
        self.confirmed: dict[str, list[str]] = {user_id: [] for user_id in users}
        self.longest: Counter[str] = Counter()
        self._stubs, self._pause = stubs, pause
        self._etags = {user_id: user.etag for user_id, user in users.items()}
        self._numbers = dict.fromkeys(users, 0)
        self._is_ending = False

    async def _run(self, user_id: str) -> None:
        while not self._is_ending:
            started = time.monotonic()
            await self._update(user_id, started)
            self.longest[user_id] = max(self.longest[user_id], time.monotonic() - started)  # type: ignore[assignment]
            await asyncio.sleep(self._pause)

    async def _update(self, user_id: str, started: float) -> None:
        number = self._numbers[user_id] + 1
        request = UpdateUserRequest(
            user_id=user_id, etag=self._etags[user_id], first_name=str(number), request_id=str(uuid4())
        )
        while True:
            try:
                updated = (await self._stubs.users.UpdateUser(request, timeout=10)).user
            except grpc.aio.AioRpcError as error:
                if failure_of(error).reason == "ETAG_MISMATCH":
                    await self._compare(user_id)
                    return
                await self._failed(error, started)
            else:
                break
        self.acknowledged += 1
        self.confirmed[user_id].append(updated.etag)
        self._numbers[user_id], self._etags[user_id] = number, updated.etag

    async def _failed(self, error: grpc.aio.AioRpcError, started: float) -> None:
        reason = failure_of(error).reason
        self.failed[reason] += 1
        assert reason == "STORE_UNAVAILABLE", error
        assert time.monotonic() - started < _LONGEST_OUTAGE
        await asyncio.sleep(0.01)

    async def _compare(self, user_id: str) -> None:
        """Compares the stored record of a user with its last acknowledged update, and continues with it."""
        started = time.monotonic()
        while True:
            try:
                stored = (await self._stubs.users.GetUser(GetUserRequest(user_id=user_id), timeout=10)).user
            except grpc.aio.AioRpcError as error:
                await self._failed(error, started)
            else:
                break
        number, expected = int(stored.first_name or 0), self._numbers[user_id]
        self.lost += max(0, expected - number)
        self.unrecorded += number > expected or (number == expected and stored.etag != self._etags[user_id])
        self._numbers[user_id], self._etags[user_id] = number, stored.etag

    def outage(self, user_ids: Iterable[str]) -> float:
        """Returns the duration of the longest update of these users since the last call."""
        return round(max((self.longest.pop(user_id, 0) for user_id in user_ids), default=0), 3)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Updates all users concurrently; at the end, compares the stored records with what was acknowledged."""
        self._is_ending = False
        tasks = [asyncio.create_task(self._run(user_id)) for user_id in self._numbers]
        try:
            yield
            self._is_ending = True
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for user_id in self._numbers:
            await self._compare(user_id)
