"""Watches across failovers: a mirror equals the store, also if the store has lost writes."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from harness.clusters import Cluster
from harness.connections import Stubs, connect
from harness.failures import failure_of
from harness.feeds import feed_on
from harness.mirrors import Mirror
from harness.population import add_users, names, read_chunks
from harness.sentinels import Sentinels
from harness.services import Service
from harness.steady_adds import SteadyAdds

from userservice import UserManager
from userservice.v1.user_service_pb2 import AddUserRequest

pytestmark = pytest.mark.long


async def follow(mirror: Mirror, address: str) -> None:
    """Follows changes until cancelled; starts again with a snapshot if the token has expired."""
    async with UserManager(address, timeout=60) as manager:
        await mirror.follow(manager, on_expired="snapshot")


async def mirrored(url: str, fail_over: Callable[[], Awaitable[object]]) -> Mirror:
    """Follows a store during a failover under writes, until the mirror equals the store; returns the mirror."""
    mirror = Mirror()
    with Service(redis_url=url) as service:
        await feed_on(url)
        async with connect(service.address) as stubs:
            await add_users(stubs, [f"u{number}" for number in range(50)])
            following = asyncio.create_task(follow(mirror, service.address))
            adds = SteadyAdds(stubs)
            async with adds.running():
                await adds.another()
                await fail_over()
                await adds.another()
            await added(stubs, "last")
            expected = set(names(await read_chunks(stubs)))
            async with asyncio.timeout(60):
                while mirror.users.keys() != expected:
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
            following = asyncio.create_task(follow(mirror, service.address))
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
            assert mirror.users.keys() == {"kept", "last"}
            assert mirror.restarts == 1
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_cluster_planned() -> None:
    with Cluster("valkey", masters=3, replicas=1) as cluster:
        mirror = await mirrored(cluster.url, lambda: asyncio.to_thread(cluster.fail_over, cluster.nodes[3]))
    assert mirror.restarts == 0  # nothing was lost, so no token has expired
