"""Adds users to the store of a running service, past its RPCs: python seed.py REDIS_URL COUNT.

The names are user-0, user-1, …; the ids follow them.
"""

import asyncio
import sys

import uvloop
from google.protobuf.struct_pb2 import Struct

from userservice.v1.user_pb2 import User
from userservice_server.domain.ports import NO_IDEMPOTENCY_KEY
from userservice_server.domain.stream_memory import ReadLimit
from userservice_server.domain.users import Users
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.topology.single import SingleServer

AT_ONCE = 500


async def seed(url: str, count: int) -> None:
    store = RedisStore(SingleServer(url), key_prefix="userservice", timeout=60)
    users = Users(store, ReadLimit())
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        await asyncio.gather(*(users.add(f"user-{number}", user(number), NO_IDEMPOTENCY_KEY) for number in numbers))
    await store.close()


def user(number: int) -> User:
    metadata = Struct()
    metadata.update({"number": number, "plan": "pro", "address": {"city": "Ōsaka"}, "tags": ["a", "b"]})
    return User(email=f"user{number}@example.com", first_name="Zoë", last_name="Ōe", metadata=metadata)


if __name__ == "__main__":
    uvloop.run(seed(sys.argv[1], int(sys.argv[2])))
