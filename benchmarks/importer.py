"""`python -m benchmarks.importer PORT RATE SECONDS PREFIX`: adds users at a constant rate, by one ImportUsers.

Sends a batch of 25 rows whenever it is due, without waiting for responses. Prints as JSON, for each user, when its
batch was sent, and when the response arrived that confirms it (``time.monotonic``).
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import grpc.aio

from benchmarks.errors import BenchError
from benchmarks.population import users
from benchmarks.writer import user_id
from userservice.v1.user_import_pb2 import ImportBatch, ImportOptions, ImportUsersRequest, ImportUsersResponse
from userservice.v1.user_pb2 import User

_METHOD = "/userservice.v1.UserService/ImportUsers"
_ROWS = 25
_ANSWER_SECONDS = 60.0


def _batches(prefix: str, count: int) -> list[bytes]:
    rows, made = users(min(count, 1000)), []
    for offset in range(0, count, _ROWS):
        batch = ImportBatch(offset=offset)
        for number in range(offset, min(count, offset + _ROWS)):
            row = rows[number % len(rows)]
            name = user_id(prefix, number)
            batch.users.append(
                User(user_id=name, email=f"{name}@mail.example", first_name=row.first_name, last_name=row.last_name)
            )
        made.append(ImportUsersRequest(batch=batch).SerializeToString())
    return made


async def _send(call: Any, batches: Sequence[bytes], rate: float, called: list[float]) -> None:
    started = time.monotonic()
    for number, batch in enumerate(batches):
        await asyncio.sleep(started + number * _ROWS / rate - time.monotonic())
        called += [time.monotonic()] * _ROWS
        await call.write(batch)
    await call.done_writing()


async def _confirmed(call: Any, count: int) -> list[float]:
    """Returns when the response arrived that confirms each of the rows."""
    replied: list[float] = []
    async for message in call:
        response = ImportUsersResponse.FromString(message)
        replied += [time.monotonic()] * (response.acked_offset - len(replied))
    if response.added != count:
        raise BenchError(f"the import added {response.added} of {count} users")
    return replied


async def _main(port: str, rate: str, seconds: str, prefix: str) -> None:
    count = int(float(rate) * float(seconds))
    batches = _batches(prefix, count)
    gc.collect()
    gc.disable()  # a collection would delay the batches
    called: list[float] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.stream_stream(_METHOD)(timeout=float(seconds) + _ANSWER_SECONDS)
        await call.write(ImportUsersRequest(options=ImportOptions(import_id=str(uuid4()))).SerializeToString())
        _, replied = await asyncio.gather(_send(call, batches, float(rate), called), _confirmed(call, count))
    sys.stdout.write(json.dumps({"called": called[:count], "replied": replied}) + "\n")


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
