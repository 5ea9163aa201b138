"""Reads users while they are updated, and counts outdated and unconfirmed values."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping

import grpc

from harness.chained_updates import ChainedUpdates
from harness.connections import Stubs
from userservice.v1.user_service_pb2 import GetUserRequest

_READERS = 8  # of each service
_PAUSE = 0.02


class ObservedReads:
    """Reads users that are updated by ``ChainedUpdates``, and compares the values with the acknowledged updates.

    Attributes:
        counts: by service, the numbers of reads, of failed reads, of values that are older than an update that was
            acknowledged before the read ("outdated"), and of values of an update that was not acknowledged yet when
            the read returned ("unconfirmed").
    """

    def __init__(self, services: Mapping[str, Stubs], updates: list[ChainedUpdates], dice: random.Random) -> None:
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in services}
        self._services, self._dice = services, dice
        self._confirmed = {user_id: etags for chain in updates for user_id, etags in chain.confirmed.items()}
        self._users = sorted(self._confirmed)
        self._unconfirmed: list[tuple[str, str, str]] = []  # service, user_id, etag
        self._is_ending = False

    async def _read(self, name: str, stubs: Stubs) -> None:
        counts = self.counts[name]
        while not self._is_ending:
            user_id = self._dice.choice(self._users)
            etags = self._confirmed[user_id]
            before = len(etags)
            try:
                user = (await stubs.users.GetUser(GetUserRequest(user_id=user_id), timeout=10)).user
            except grpc.aio.AioRpcError:
                counts["failed"] += 1
            else:
                number = int(user.first_name or 0)
                counts["reads"] += 1
                counts["outdated"] += number < before
                if number > len(etags):
                    counts["unconfirmed"] += 1
                    self._unconfirmed.append((name, user_id, user.etag))
            await asyncio.sleep(_PAUSE)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for name, stubs in self._services.items():
                for _ in range(_READERS):
                    tasks.create_task(self._read(name, stubs))
            yield
            self._is_ending = True

    def vanished(self) -> Counter[str]:
        """Returns, by service, how many reads returned an update that was never acknowledged; for use at the end."""
        return Counter(name for name, user_id, etag in self._unconfirmed if etag not in self._confirmed[user_id])
