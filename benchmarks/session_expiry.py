"""`python -m benchmarks.session_expiry`: measures sessions that expire.

Prints the p99 of GetUser without and with the sweeper, the number of writes of a session that is touched continuously,
and the number of expired sessions that lists returned while sessions were touched.
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks import programs, stores
from benchmarks.latencies import at_rate, lasting, p99_of_gets
from benchmarks.population import user_id
from userservice import SessionManager, SessionNotFoundError, UserServiceError
from userservice.v1 import session_pb2
from userservice_server.store.keys import Keys
from userservice_server.wire.records import frame, record_id, record_key

_KEYS = Keys("userservice", 1)
_SESSIONS_OF_A_USER = 100
_TOUCHED = 50  # sessions
_WRITTEN_IDLE_TTL, _SHOWN_IDLE_TTL = 60, 1  # seconds
_MICROSECONDS = 1_000_000


def _add_expired(store: stores.Store, count: int) -> None:
    """Adds expired sessions to the users of the store; an hour after their expiry, the sweeper would hurry."""
    expired_at = int(time.time() - 1) * _MICROSECONDS
    for record in store.records():
        table, owner = _KEYS.sessions(record_key(record).decode()), record_id(record)
        of_user = min(count, _SESSIONS_OF_A_USER)
        count -= of_user
        with store.redis.pipeline(transaction=False) as pipeline:
            rows, index = {}, {}
            for number in range(of_user):
                session = session_pb2.Session(session_id=f"s{number}", id=number + 1, user_id=table.owner)
                session.expire_time.FromMicroseconds(expired_at)
                rows[frame(session)] = index[session.session_id] = session.id
            if rows:
                pipeline.zadd(table.rows, rows)
                pipeline.hset(table.index, mapping=index)
                pipeline.zadd(table.session_expiry, dict.fromkeys(map(str, index.values()), expired_at))
                pipeline.zadd(table.expiry_queue, {str(owner): expired_at})
                pipeline.hincrby(table.session_count, "added", of_user)
            pipeline.execute()


def _sweep(store: stores.Store, folder: Path, users: int, sessions: int, seconds: float, sweep_seconds: float) -> None:
    _add_expired(store, sessions)
    table = _KEYS.all_users()[0]
    with programs.service("calm", store.url, folder, "--read-only", "true") as service:
        calm = asyncio.run(p99_of_gets(f"127.0.0.1:{service.port}", users, lasting(seconds)))
    with programs.service("sweeping", store.url, folder) as service:
        started = time.monotonic()
        goes_on = lasting(sweep_seconds)
        swept = asyncio.run(
            p99_of_gets(
                f"127.0.0.1:{service.port}", users, lambda: goes_on() and bool(store.redis.exists(table.expiry_queue))
            )
        )
        taken = time.monotonic() - started
        removed = int(store.redis.hget(table.session_count, "removed") or 0)
    sys.stdout.write(f"GetUser p99 without sweeper: {calm:.1f} ms\n")
    sys.stdout.write(f"GetUser p99 while {removed} of {sessions} sessions are removed in {taken:.0f} s: ")
    sys.stdout.write(f"{swept:.1f} ms ({swept / calm:.2f} x)\n")


def _writes(store: stores.Store) -> int:
    """Returns the number of records that were replaced; each replacement removes the earlier record."""
    return int(store.redis.info("commandstats").get("cmdstat_zrem", {"calls": 0})["calls"])


async def _touch_one(store: stores.Store, address: str, rate: float, seconds: float) -> None:
    async with SessionManager(address) as manager:
        owner, session_id = user_id(0), "one"
        await manager.add(user_id=owner, session_id=session_id, idle_ttl=_WRITTEN_IDLE_TTL)
        before = _writes(store)
        done = await at_rate(rate, lasting(seconds), lambda: manager.touch(owner, session_id))
        writes = _writes(store) - before
    sys.stdout.write(f"{len(done)} touches of one session in {seconds:.0f} s: {writes} writes\n")


async def _touch_many(store: stores.Store, address: str, rate: float, seconds: float) -> None:
    owner = user_id(1)
    shown = lists = 0
    async with SessionManager(address) as manager:

        async def touch() -> None:
            session_id = f"s{min(int(random.expovariate(0.1)), _TOUCHED - 1)}"  # some are touched rarely and expire
            with suppress(UserServiceError):  # another caller adds the session at the same time
                try:
                    await manager.touch(owner, session_id)
                except SessionNotFoundError:
                    await manager.add(user_id=owner, session_id=session_id, idle_ttl=_SHOWN_IDLE_TTL)

        async def look(goes_on: Callable[[], bool]) -> None:
            nonlocal shown, lists
            while goes_on():
                whole, microseconds = store.redis.time()
                page = await manager.list(owner)
                now = whole + microseconds / _MICROSECONDS
                shown += sum(s.expire_time is not None and s.expire_time.timestamp() <= now for s in page)
                lists += 1

        _, touches = await asyncio.gather(look(lasting(seconds)), at_rate(rate, lasting(seconds), touch))
    sys.stdout.write(f"{len(touches)} touches of {_TOUCHED} sessions in {seconds:.0f} s, {lists} lists: ")
    sys.stdout.write(f"{shown} expired sessions shown\n")


def main() -> None:
    """Starts a store and services, and measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.session_expiry", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000, help="number of expired sessions")
    parser.add_argument("--seconds", type=float, default=60, help="duration of each of the other measurements")
    parser.add_argument("--sweep-seconds", type=float, default=300, help="most seconds in which sessions are removed")
    parser.add_argument("--touches", type=float, default=2000, help="touches per second")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that servers are stopped, too
    users = max(2, -(-arguments.sessions // _SESSIONS_OF_A_USER))
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as name, stores.running(Path(name)) as store:
        store.fill(users)
        _sweep(store, Path(name), users, arguments.sessions, arguments.seconds, arguments.sweep_seconds)
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as name, stores.running(Path(name)) as store:
        store.fill(2)
        with programs.service("touches", store.url, Path(name)) as service:
            address = f"127.0.0.1:{service.port}"
            asyncio.run(_touch_one(store, address, arguments.touches, arguments.seconds))
            asyncio.run(_touch_many(store, address, arguments.touches, arguments.seconds))


if __name__ == "__main__":
    main()
