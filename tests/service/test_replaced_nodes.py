"""All nodes of a cluster restart at new addresses: the service finds them by the addresses in its URL."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping

import grpc
import pytest
from harness.clusters import SLOTS, Cluster
from harness.connections import Stubs, connect, health
from harness.population import add_users, names, read_chunks
from harness.ports import free_port
from harness.proxies import Proxy
from harness.services import Service
from harness.steady_adds import SteadyAdds
from harness.stores import Store
from harness.waiting import until

from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import GetUserRequest
from userservice_server.check import check

pytestmark = pytest.mark.long


@contextlib.contextmanager
def other_cluster(port: int) -> Iterator[None]:
    """A cluster of one node."""
    with Store("redis", port=port, options=["--cluster-enabled", "yes", "--cluster-port", str(free_port())]) as node:
        with node.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        yield


async def until_readable(stubs: Stubs, added: Mapping[str, User]) -> None:
    """Waits until all users are read as they were added."""
    async with asyncio.timeout(30):
        while True:
            try:
                for user_id, user in added.items():
                    assert (await stubs.users.GetUser(GetUserRequest(user_id=user_id), timeout=10)).user == user
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
            else:
                return


async def test_nodes_at_new_addresses_are_found_by_the_seeds() -> None:
    """The first seed is lost, the second leads to another node afterwards, and other servers get the old addresses."""
    with (
        Cluster("valkey", append_only=True, node_timeout_ms=1000) as cluster,
        Proxy(cluster.nodes[0].port or 0) as name,
    ):
        url = f"redis-cluster://127.0.0.1:{free_port()},{name.address}"
        with Service(redis_url=url) as service:
            async with connect(service.address) as stubs:
                added = await add_users(stubs, [f"u{number}" for number in range(64)])
                adds = SteadyAdds(stubs, "a", pause=0.05)
                old = [node.port or 0 for node in cluster.nodes]
                async with adds.running():
                    await adds.another()
                    await asyncio.to_thread(cluster.restart_elsewhere)
                    await asyncio.to_thread(until, lambda: health(service.address) == "NOT_SERVING")
                    with Store(port=old[1]), other_cluster(old[2]):
                        name.target = cluster.nodes[2].port or 0
                        await asyncio.to_thread(cluster.settle, 0)
                        await until_readable(stubs, added)
                        await asyncio.to_thread(until, lambda: health(service.address) == "SERVING", 30)
                        await adds.another()
                found = names(await read_chunks(stubs))
                assert sorted(found) == sorted([*added, *adds.acknowledged])
            assert service.stop() == 0
        assert check(cluster.url, "userservice", 5).findings == []
