"""Streams all users again and again while a store fails over or moves slots, and counts the errors of the streams."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from harness.connections import Stubs
from harness.sizing import FULL, sized
from userservice import UserManager, UserServiceError
from userservice.v1.user_service_pb2 import ListUsersChunkedRequest

STREAMS = sized(8, 40)  # concurrent
WRITES = sized(200, 2000)  # per second, in addition to single calls
_PAUSE = 0.05 if FULL else 0.001  # seconds after each chunk, so that 40 streams leave CPU time to the writes
_CHUNK_SIZES = (50, 200, 500) if FULL else (20, 50, 200)
_CHUNKS = 3  # a stream is cancelled after this number of chunks and resumed
_LONGEST_OUTAGE = 60.0


async def resumed_stream(stubs: Stubs, chunk_size: int, chunks: int = 0) -> list[str]:
    """Reads all users and resumes after every failure, as the clients do.

    Args:
        stubs: the stubs of the service.
        chunk_size: users in a chunk.
        chunks: number of chunks after which the stream is cancelled and resumed from its cursor; 0: never cancelled.
    """
    found: list[str] = []
    cursor, deadline = 0, time.monotonic() + _LONGEST_OUTAGE
    while True:
        try:
            request = ListUsersChunkedRequest(chunk_size=chunk_size, cursor=cursor)
            call = stubs.users.ListUsersChunked(request, timeout=60)
            received = 0
            async for chunk in call:
                found += [user.user_id for user in chunk.users]
                cursor, received = chunk.next_cursor, received + 1
                if not cursor:
                    return found
                if received == chunks:
                    call.cancel()
                    break
                await asyncio.sleep(_PAUSE)
        except grpc.aio.AioRpcError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def client_stream(address: str, chunk_size: int) -> list[str]:
    """Reads all users with several clients; each reads some chunks, from the cursor of the previous client on."""
    found: list[str] = []
    cursor, deadline = 0, time.monotonic() + _LONGEST_OUTAGE
    while True:
        try:
            async with UserManager(address, timeout=60) as manager:
                received = 0
                async for users in manager.list_chunked(chunk_size=chunk_size, cursor=cursor):
                    found += [user.user_id for user in users]
                    cursor, received = users.next_cursor, received + 1
                    if received == _CHUNKS:
                        break
                    await asyncio.sleep(_PAUSE)
            if not cursor:
                return found
        except UserServiceError:  # the retries of the client did not succeed
            assert time.monotonic() < deadline


@asynccontextmanager
async def streaming(
    stubs: Stubs, address: str, expected: list[str], dice: random.Random, streams: int = STREAMS
) -> AsyncIterator[Counter[str]]:
    """Streams all users again and again; counts the streams, and users that were missing, repeated or out of order.

    One of four streams is cancelled after every 3 chunks and resumed from its cursor; another one is read by clients.
    """
    counts: Counter[str] = Counter()
    places = {user_id: place for place, user_id in enumerate(expected)}
    is_over = False

    async def read(kind: int) -> None:
        while not is_over:
            size = dice.choice(_CHUNK_SIZES)
            is_by_client, chunks = kind == 3, _CHUNKS if kind == 1 else 0
            read = await (client_stream(address, size) if is_by_client else resumed_stream(stubs, size, chunks))
            found = [user_id for user_id in read if user_id in places]
            counts["streams"] += 1
            counts["resumed"] += chunks > 0
            counts["by clients"] += is_by_client
            counts["missing"] += len(places.keys() - set(found))
            counts["repeated"] += len(read) - len(set(read))
            counts["out of order"] += found != sorted(found, key=places.__getitem__)

    async with asyncio.TaskGroup() as tasks:
        for number in range(streams):
            tasks.create_task(read(number % 4))
        yield counts
        is_over = True


def disorder(counts: Counter[str]) -> dict[str, int]:
    """Returns the errors of the streams: the counts that are not 0."""
    return {name: counts[name] for name in ("missing", "repeated", "out of order") if counts[name]}
