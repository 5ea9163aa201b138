"""Fills a service with users, and reads all of them."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any
from uuid import uuid4

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from harness.connections import Stubs
from harness.stores import Store
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import AddUserRequest, ListUsersChunkedRequest, ListUsersChunkedResponse
from userservice_server.wire.records import frame

AT_ONCE = 64
TIMEOUT = 30


def struct(content: Mapping[str, Any]) -> Struct:
    made = Struct()
    made.update(dict(content))
    return made


async def add_users(stubs: Stubs, user_ids: Iterable[str], **fields: Any) -> dict[str, User]:
    """Adds users concurrently and returns them as stored.

    The order of their ids differs from the order of their user_ids.
    """
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


def fill(store: Store, user_ids: Iterable[str], sizes: Iterable[int] = (), **fields: Any) -> dict[str, User]:
    """Writes users directly into an empty store, about 50 000 per second; returns them as stored.

    Written as the service writes them, which `userservice check` confirms. A service that runs on the store expects
    the new store from its next look on. With `sizes`, each user has metadata of so many bytes.
    """
    now, ticks = Timestamp(), int((time.time() - 1735689600) * 40000)
    now.GetCurrentTime()
    users = {
        user_id: User(
            user_id=user_id, id=(ticks + 2 * number) * 64, uuid=str(uuid4()), created_at=now, updated_at=now, **fields
        )
        for number, user_id in enumerate(user_ids, -1_000_000)
    }
    for user, size in zip(users.values(), sizes, strict=False):
        user.metadata.update({"k": "x" * size})
    for user in users.values():
        user.etag = user.uuid[:12]
    store_id = uuid4().hex
    with store.client() as client:
        waiting = iter(users.values())
        while batch := list(islice(waiting, 1000)):
            with client.pipeline() as together:  # else a service would find half a store
                together.hset(
                    "userservice:layout",
                    mapping={"version": 1, "partitions": 1, "store_id": store_id, "lowest_id": 0},
                )
                together.set("userservice:{0}:store_id", store_id)
                together.zadd("userservice:{0}:users", {frame(user): user.id for user in batch})
                together.hset("userservice:{0}:user_ids", mapping={user.user_id: user.id for user in batch})
                together.set("userservice:{0}:last_id", batch[-1].id)
                together.execute()
    return users
