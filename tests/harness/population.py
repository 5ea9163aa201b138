"""Filling a service with users, and reading them all back."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct

from harness.connections import Stubs
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import AddUserRequest, ListUsersChunkedRequest, ListUsersChunkedResponse

AT_ONCE = 64
TIMEOUT = 30


def struct(content: Mapping[str, Any]) -> Struct:
    made = Struct()
    made.update(dict(content))
    return made


async def add_users(stubs: Stubs, user_ids: Iterable[str], **fields: Any) -> dict[str, User]:
    """Adds the users, many at once, and returns what was stored. Their ids do not follow the order of the names."""
    waiting = iter(user_ids)
    added: dict[str, User] = {}

    async def work() -> None:
        for user_id in waiting:
            answer = await stubs.users.AddUser(AddUserRequest(user_id=user_id, **fields), timeout=TIMEOUT)
            added[user_id] = answer.user

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(work())
    return added


async def read_chunks(stubs: Stubs, chunk_size: int = 0, cursor: int = 0) -> list[ListUsersChunkedResponse]:
    request = ListUsersChunkedRequest(chunk_size=chunk_size, cursor=cursor)
    return [chunk async for chunk in stubs.users.ListUsersChunked(request, timeout=TIMEOUT)]


def names(chunks: Iterable[ListUsersChunkedResponse]) -> list[str]:
    return [user.user_id for chunk in chunks for user in chunk.users]
