"""`python -m benchmarks.baseline REDIS_URL`: the baseline as a server on a free port.

The baseline is not slow on purpose: it uses grpc.aio, one round trip to Redis per chunk (a pipeline of HGETALL) and the
parser hiredis. It has none of the optimizations in docs/performance.md and fewer guarantees: no idempotency, no error
details, no checks of requests, and lists that may miss users.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from redis.asyncio import Redis

from benchmarks.baseline.layout import LAST_ID, USERS, key, new_hash, user_of
from userservice.v1 import user_service_pb2 as pb
from userservice.v1.user_service_pb2_grpc import UserServiceServicer, add_UserServiceServicer_to_server

Context = grpc.aio.ServicerContext[Any, Any]


class Baseline(UserServiceServicer):
    """The RPCs that are measured."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # the types of redis-py also contain those of its blocking API

    async def AddUser(self, request: pb.AddUserRequest, context: Context) -> pb.AddUserResponse:  # noqa: D102, N802
        if await self._redis.exists(key(request.user_id)):
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "user exists")
        number = await self._redis.incr(LAST_ID)
        fields = new_hash(request, number)
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(key(request.user_id), mapping=fields)
            pipeline.zadd(USERS, {request.user_id: number})
            await pipeline.execute()
        return pb.AddUserResponse(user=user_of({name: str(value) for name, value in fields.items()}))

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:  # noqa: D102, N802
        fields = await self._redis.hgetall(key(request.user_id))
        if not fields:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such user")
        return pb.GetUserResponse(user=user_of(fields))

    async def ListUsersChunked(  # noqa: D102, N802
        self, request: pb.ListUsersChunkedRequest, _context: Context
    ) -> AsyncIterator[pb.ListUsersChunkedResponse]:
        size, start = request.chunk_size or 100, 0
        while user_ids := await self._redis.zrange(USERS, start, start + size - 1):
            async with self._redis.pipeline(transaction=False) as pipeline:
                for user_id in user_ids:
                    pipeline.hgetall(key(user_id))
                yield pb.ListUsersChunkedResponse(users=[user_of(fields) for fields in await pipeline.execute()])
            start += size


async def _serve(redis_url: str) -> None:
    server = grpc.aio.server()
    redis = Redis.from_url(redis_url, decode_responses=True)
    # In the type stubs all methods are abstract; at run time, missing methods return UNIMPLEMENTED.
    add_UserServiceServicer_to_server(Baseline(redis), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"baseline listening on 127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
