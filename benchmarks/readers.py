"""`python -m benchmarks.readers KIND PORT`: reads all users in Python; prints the number of users and the seconds.

The kinds ``ids`` and ``metadata`` use the client of this repository; ``dicts`` uses the generated stub and converts
each message to a dict.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

import grpc
from google.protobuf.json_format import MessageToDict

from userservice import UserManager
from userservice.v1.user_service_pb2 import ListUsersChunkedRequest
from userservice.v1.user_service_pb2_grpc import UserServiceStub

_CHUNK_SIZE = 1000


async def ids(address: str) -> int:
    """Reads the user_id of each user."""
    names = []
    async with UserManager(address) as manager:
        async for users in manager.list_chunked(_CHUNK_SIZE):
            names += [user.user_id for user in users]
    return len(names)


async def metadata(address: str) -> int:
    """Reads the metadata of each user, as a dict."""
    found = []
    async with UserManager(address) as manager:
        async for users in manager.list_chunked(_CHUNK_SIZE):
            found += [user.metadata for user in users]
    return len(found)


async def dicts(address: str) -> int:
    """Converts each user to a dict."""
    found = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub = UserServiceStub(channel)
        async for response in stub.ListUsersChunked(ListUsersChunkedRequest(chunk_size=_CHUNK_SIZE)):
            found += [MessageToDict(user, preserving_proto_field_name=True) for user in response.users]
    return len(found)


READERS: dict[str, Callable[[str], Awaitable[int]]] = {"ids": ids, "metadata": metadata, "dicts": dicts}


async def _main(kind: str, port: str) -> None:
    started = time.perf_counter()
    users = await READERS[kind](f"127.0.0.1:{port}")
    sys.stdout.write(f"{users} {time.perf_counter() - started}\n")


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
