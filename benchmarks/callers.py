"""`python -m benchmarks.callers KIND PORT CALLERS USERS SECONDS`: concurrent gets by one Python client; prints calls/s.

KIND is ``single`` (each get is a GetUser) or ``shared`` (the client sends concurrent gets as one BatchGetUsers).
"""

import asyncio
import sys
import time
from random import Random
from typing import Any

from benchmarks.errors import BenchError
from benchmarks.population import user_id
from userservice import UserManager

_WARM_UP_SECONDS = 0.1


async def _calls_per_second(manager: UserManager, callers: int, users: int, seconds: float) -> float:
    until = time.perf_counter() + seconds
    numbers = Random(callers)

    async def caller() -> int:
        calls = 0
        while time.perf_counter() < until:
            wanted = user_id(numbers.randrange(users))
            if (await manager.get(wanted)).user_id != wanted:
                raise BenchError("a get returned another user")
            calls += 1
        return calls

    started = time.perf_counter()
    return sum(await asyncio.gather(*(caller() for _ in range(callers)))) / (time.perf_counter() - started)


async def _main(kind: str, port: str, callers: str, users: str, seconds: str) -> None:
    options: dict[str, Any] = {"share_reads": True} if kind == "shared" else {}
    async with UserManager(f"127.0.0.1:{port}", **options) as manager:
        await _calls_per_second(manager, int(callers), int(users), _WARM_UP_SECONDS)
        sys.stdout.write(f"{await _calls_per_second(manager, int(callers), int(users), float(seconds))}\n")


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
