"""Replies are lost after the write was applied, and the manager retries: each write is applied once."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from harness.proxies import Proxy
from harness.services import Service
from harness.sizing import sized
from harness.stores import Store

from userservice import UserManager
from userservice_server.check import check

LOST = 0.1
FEWEST_LOST = 3  # below that a run shows nothing, and goes on
WRITES_A_USER = 5


@asynccontextmanager
async def managers(address: str, number: int) -> AsyncIterator[list[UserManager]]:
    """Managers with one connection each, so that a lost connection affects one call."""
    opened = [
        UserManager(address, timeout=60, channel_options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(number)
    ]
    yield opened
    await asyncio.gather(*(manager.close() for manager in opened))


async def live(manager: UserManager, user_id: str) -> None:
    """Makes all writes of one user's lifetime; each of them fails if it is applied a second time."""
    user = await manager.add(user_id=user_id, metadata={"n": 0})
    for number in range(1, 4):
        user = await manager.update(user_id=user_id, metadata={f"n{number}": number}, etag=user.etag)
    assert user.metadata == {"n": 0, "n1": 1, "n2": 2, "n3": 3}
    await manager.delete(user_id, etag=user.etag)


def users_until_lost(writes: int, proxy: Proxy) -> Iterator[int]:
    """Makes the given number of writes, and up to ten times as many while too few replies were lost."""
    users = writes // WRITES_A_USER
    for number in range(10 * users):
        if number >= users and proxy.lost >= FEWEST_LOST:
            return
        yield number


async def live_many(address: str, writes: int, at_once: int, proxy: Proxy) -> int:
    users = users_until_lost(writes, proxy)
    lived = 0

    async def work(manager: UserManager) -> None:
        nonlocal lived
        for number in users:
            await live(manager, f"user{number}")
            lived += 1

    async with managers(address, at_once) as opened:
        await asyncio.gather(*map(work, opened))
    return lived


def assert_applied_once(store: Store, users: int) -> None:
    """Checks Redis's own count of the commands that its scripts ran."""
    with store.client() as client:
        calls = {name: stats["calls"] for name, stats in client.info("commandstats").items()}
        assert calls["cmdstat_zadd"] == 4 * users
        assert calls["cmdstat_zremrangebyscore"] == 5 * users  # by each update and delete
        assert client.zcard("userservice:{0}:users") == 0
    assert check(store.url, "userservice", 5).findings == []


async def test_replies_lost_between_client_and_service(seed: int, dice: random.Random) -> None:
    writes = sized(500, 10_000)
    with Store() as store, Service(redis_url=store.url) as service, Proxy(service.port, seed=seed) as proxy:
        proxy.lose_reply_after = lambda sent: b"user" in sent and dice.random() < LOST
        lived = await live_many(proxy.address, writes, 16, proxy)
        print(f"{lived * WRITES_A_USER} writes, {proxy.lost} replies lost")  # noqa: T201 - the figure
        assert proxy.lost > writes * LOST / 3
        assert_applied_once(store, lived)


async def test_replies_lost_between_service_and_redis(seed: int) -> None:
    """Each lost reply also closes the connection that all calls share."""
    writes = sized(120, 3000)
    with Store() as store, Proxy(store.socket, seed=seed) as proxy, Service(redis_url=proxy.url) as service:
        proxy.lose_reply_after = proxy.chance(LOST, b"userservice:{0}:request:")
        lived = await live_many(service.address, writes, 16, proxy)
        print(f"{lived * WRITES_A_USER} writes, {proxy.lost} replies lost")  # noqa: T201 - the figure
        assert proxy.lost >= FEWEST_LOST
        assert_applied_once(store, lived)
