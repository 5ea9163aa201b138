"""Watches across failovers: a mirror equals the store, also if the store has lost writes."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from harness.clusters import Cluster
from harness.connections import Stubs, connect
from harness.failures import failure_of
from harness.feeds import feed_on
from harness.population import add_users, names, read_chunks
from harness.sentinels import Sentinels
from harness.services import Service
from harness.steady_adds import SteadyAdds

from userservice import Changes, UserManager
from userservice.v1.user_service_pb2 import AddUserRequest

pytestmark = pytest.mark.long


class Mirror:
    """The user_ids of a store, as a watch reports them."""

    def __init__(self) -> None:
        self.user_ids: set[str] = set()
        self.restarts = 0
        self._changed = asyncio.Event()

    def take(self, changes: Changes) -> None:
        if changes.restarted:
            self.restarts += 1
            self.user_ids.clear()
        for change in changes:
            (self.user_ids.discard if change.user is None else self.user_ids.add)(change.user_id)
        self._changed.set()

    async def has(self, user_id: str) -> None:
        """Waits until the mirror contains a user."""
        async with asyncio.timeout(60):
            while user_id not in self.user_ids:
                self._changed.clear()
                await self._changed.wait()

    async def follow(self, address: str) -> None:
        async with UserManager(address, timeout=60) as manager:
            async for changes in manager.watch("snapshot", heartbeat=1, on_expired="snapshot"):
                self.take(changes)


async def mirrored(url: str, fail_over: Callable[[], Awaitable[object]]) -> Mirror:
    """Follows a store during a failover under writes, until the mirror equals the store; returns the mirror."""
    mirror = Mirror()
    with Service(redis_url=url) as service:
        await feed_on(url)
        async with connect(service.address) as stubs:
            await add_users(stubs, [f"u{number}" for number in range(50)])
            following = asyncio.create_task(mirror.follow(service.address))
            adds = SteadyAdds(stubs)
            async with adds.running():
                await adds.another()
                await fail_over()
                await adds.another()
            await added(stubs, "last")
            expected = set(names(await read_chunks(stubs)))
            async with asyncio.timeout(60):
                while mirror.user_ids != expected:
                    assert not following.done()
                    await asyncio.sleep(0.1)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    return mirror


async def added(stubs: Stubs, user_id: str) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await stubs.users.AddUser(AddUserRequest(user_id=user_id))
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                    return
                await asyncio.sleep(0.2)
            else:
                return


async def test_sentinel_planned() -> None:
    with Sentinels("valkey", replicas=2, down_after_ms=1000) as sentinels:
        await mirrored(sentinels.url, lambda: asyncio.to_thread(sentinels.fail_over))


async def test_sentinel_killed() -> None:
    with Sentinels("redis", replicas=2, down_after_ms=1000) as sentinels:
        primary = sentinels.primary

        async def kill() -> None:
            await asyncio.to_thread(primary.kill)
            await asyncio.to_thread(sentinels.wait_for_another, primary)

        await mirrored(sentinels.url, kill)


async def test_a_reported_change_that_a_failover_loses_expires_the_watch() -> None:
    """A change is reported before replicas confirm it, also with --wait-replicas."""
    mirror = Mirror()
    with (
        Sentinels("valkey", replicas=2, down_after_ms=1000) as sentinels,
        Service("--wait-replicas", "1", "--store-timeout", "1", redis_url=sentinels.url) as service,
    ):
        await feed_on(sentinels.url)
        async with connect(service.address) as stubs:
            await add_users(stubs, ["kept"])
            following = asyncio.create_task(mirror.follow(service.address))
            await mirror.has("kept")
            primary = sentinels.primary
            with primary.client() as client:
                client.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
                client.execute_command("CLIENT", "KILL", "TYPE", "replica")
            with pytest.raises(grpc.aio.AioRpcError) as unconfirmed:
                await stubs.users.AddUser(AddUserRequest(user_id="lost"))
            assert failure_of(unconfirmed.value).reason == "STORE_UNAVAILABLE"
            await mirror.has("lost")
            await asyncio.to_thread(primary.kill)
            await asyncio.to_thread(sentinels.wait_for_another, primary)
            await added(stubs, "last")
            assert set(names(await read_chunks(stubs))) == {"kept", "last"}
            await mirror.has("last")
            assert mirror.user_ids == {"kept", "last"}
            assert mirror.restarts == 1
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_cluster_planned() -> None:
    with Cluster("valkey", masters=3, replicas=1) as cluster:
        mirror = await mirrored(cluster.url, lambda: asyncio.to_thread(cluster.fail_over, cluster.nodes[3]))
    assert mirror.restarts == 0  # nothing was lost, so no token has expired
