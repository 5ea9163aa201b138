"""Writes to a service while a test reads all users."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable

from google.protobuf.message import Message
from harness.connections import Stubs
from harness.population import struct

from userservice.v1.user_service_pb2 import AddUserRequest, DeleteUserRequest, UpdateUserRequest

PADDING = "x" * 300


class Writers:
    """Updates, adds and deletes users, one after another, until it is stopped."""

    def __init__(self, stubs: Stubs, steady: list[str], doomed: list[str]) -> None:
        self._stubs = stubs
        self._steady = steady
        self._doomed = doomed
        self._stopping = asyncio.Event()
        self.wrote: Counter[str] = Counter()

    async def update(self) -> None:
        # Longer and shorter again, so that records move within the store.
        texts = itertools.cycle(["", PADDING, PADDING * 2])
        for user_id, text in zip(itertools.cycle(self._steady), texts):
            request = UpdateUserRequest(user_id=user_id, metadata=struct({"k": text}))
            if await self._write("update", self._stubs.users.UpdateUser(request)):
                return

    async def add(self) -> None:
        for number in itertools.count():
            request = AddUserRequest(user_id=f"new{number}", email=PADDING)
            if await self._write("add", self._stubs.users.AddUser(request)):
                return

    async def delete(self) -> None:
        for user_id in self._doomed:
            if await self._write("delete", self._stubs.users.DeleteUser(DeleteUserRequest(user_id=user_id))):
                return

    async def _write(self, kind: str, call: Awaitable[Message]) -> bool:
        await call
        self.wrote[kind] += 1
        return self._stopping.is_set()

    def stop(self) -> None:
        self._stopping.set()
