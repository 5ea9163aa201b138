"""Clusters and Sentinels under load: masters are killed or replaced, slots move; streams stay complete.

FAULTS=full: 20 failovers instead of 2, and 40 concurrent streams instead of 8.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from harness.clusters import Cluster
from harness.connections import Stubs, connect
from harness.population import add_users
from harness.services import Service
from harness.sizing import sized
from harness.steady_adds import SteadyAdds
from harness.steady_imports import SteadyImports
from harness.steady_streams import STREAMS, WRITES, disorder, resumed_stream, streaming
from harness.waiting import until

from userservice_server.check import check
from userservice_server.store.keys import Keys
from userservice_server.store.partitions import slot_of

pytestmark = pytest.mark.long

NODE_TIMEOUT_MS = 1000
STORE_TIMEOUT = "0.8"  # below the node timeout
FAILOVERS = sized(2, 20)
LONGEST_OUTAGE = 10.0  # seconds; the figure is about 2 x node timeout + 1 s, and longer on a busy machine
USERS = 2000
KEYS = Keys("userservice", 16)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("redis", masters=3, replicas=1, node_timeout_ms=NODE_TIMEOUT_MS) as made:
        yield made


@pytest.fixture
def service(cluster: Cluster) -> Iterator[Service]:
    cluster.empty()
    with Service("--store-timeout", STORE_TIMEOUT, redis_url=cluster.url) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
async def stubs(service: Service) -> AsyncIterator[Stubs]:
    async with connect(service.address) as connected:
        yield connected


@pytest.mark.timeout(600)
async def test_streams_and_writes_while_masters_are_killed(
    cluster: Cluster, service: Service, stubs: Stubs, dice: random.Random
) -> None:
    added = await add_users(stubs, [f"u{number}" for number in range(USERS)])
    expected = sorted(added, key=lambda user_id: added[user_id].id)
    figures = []
    adds = SteadyAdds(stubs, "k")
    imports = SteadyImports(service.address, expected, WRITES)
    started = time.monotonic()
    async with (
        streaming(stubs, service.address, expected, dice) as counts,
        imports.running(),
        adds.running(),
    ):
        for number in range(FAILOVERS):
            await asyncio.sleep(0.5)
            victim = cluster.masters[number % 3]
            replica = cluster.replicas_of(victim)[0]
            adds.longest = 0.0
            await asyncio.to_thread(victim.kill)
            await asyncio.to_thread(until, lambda replica=replica: cluster.is_master(replica), 20)
            await adds.another()
            await asyncio.sleep(1.0)
            figures.append(round(adds.longest, 2))
            await asyncio.to_thread(victim.start)
            await asyncio.to_thread(cluster.settle, 1)
        rate = imports.applied / (time.monotonic() - started)
    print(  # noqa: T201 - the figure
        f"kill -9: {dict(counts)}, longest add of each failover in s: {figures}, {imports.applied} imported rows, "
        f"{rate:.0f}/s, {imports.broken} imports not continued"
    )
    assert counts["streams"] >= STREAMS
    assert counts["by clients"]
    assert disorder(counts) == {}
    assert imports.applied
    assert imports.failed == 0
    assert max(figures) <= LONGEST_OUTAGE
    found = await resumed_stream(stubs, 1000)
    assert len(found) == len(set(found))
    lost = set(adds.acknowledged) - set(found)
    print(f"acknowledged writes that were lost: {len(lost)} of {len(adds.acknowledged)}")  # noqa: T201 - the figure
    assert check(cluster.url, "userservice", 5).findings == []


async def test_streams_while_slots_move(cluster: Cluster, service: Service, stubs: Stubs, dice: random.Random) -> None:
    added = await add_users(stubs, [f"u{number}" for number in range(USERS)])
    expected = sorted(added, key=lambda user_id: added[user_id].id)
    tables = KEYS.all_users()
    adds = SteadyAdds(stubs, "m")
    async with streaming(stubs, service.address, expected, dice) as counts, adds.running():
        for number in range(4):
            slot = slot_of(tables[number].rows)
            source = cluster.owner(slot)
            target = next(master for master in cluster.masters if master is not source)
            await asyncio.to_thread(cluster.move_slot, slot, source, target, pause=0.01)
            await asyncio.sleep(0.2)
    print(f"MIGRATE of 4 partitions: {dict(counts)}, longest add {adds.longest:.2f} s, {adds.reasons}")  # noqa: T201 - the figure
    assert disorder(counts) == {}
    found = await resumed_stream(stubs, 1000)
    assert set(adds.acknowledged) <= set(found)
    assert check(cluster.url, "userservice", 5).findings == []
