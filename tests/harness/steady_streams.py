"""Streams all users again and again while a store fails over or moves slots, and counts the errors of the streams."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from harness.connections import Stubs
from userservice.v1.user_service_pb2 import ListUsersChunkedRequest

STREAMS = 8  # concurrent
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
                await asyncio.sleep(0.001)
        except grpc.aio.AioRpcError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


@asynccontextmanager
async def streaming(
    stubs: Stubs, expected: list[str], dice: random.Random, streams: int = STREAMS
) -> AsyncIterator[Counter[str]]:
    """Streams all users again and again; counts the streams, and users that were missing, repeated or out of order.

    Every second stream is cancelled after every 3 chunks and resumed from its cursor.
    """
    counts: Counter[str] = Counter()
    places = {user_id: place for place, user_id in enumerate(expected)}
    is_over = False

    async def read(chunks: int) -> None:
        while not is_over:
            read = await resumed_stream(stubs, dice.choice([20, 50, 200]), chunks)
            found = [user_id for user_id in read if user_id in places]
            counts["streams"] += 1
            counts["resumed"] += chunks > 0
            counts["missing"] += len(places.keys() - set(found))
            counts["repeated"] += len(read) - len(set(read))
            counts["out of order"] += found != sorted(found, key=places.__getitem__)

    async with asyncio.TaskGroup() as tasks:
        for number in range(streams):
            tasks.create_task(read(3 * (number % 2)))
        yield counts
        is_over = True


def disorder(counts: Counter[str]) -> dict[str, int]:
    """Returns the errors of the streams: the counts that are not 0."""
    return {name: counts[name] for name in ("missing", "repeated", "out of order") if counts[name]}
