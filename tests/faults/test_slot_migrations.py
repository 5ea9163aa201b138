"""Slots of several partitions move to a new master of a Valkey cluster (CLUSTER MIGRATESLOTS) under load."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from harness.chained_updates import ChainedUpdates
from harness.clusters import Cluster
from harness.connections import Stubs, connect
from harness.population import add_users
from harness.services import Service
from harness.sizing import FULL, sized
from harness.steady_adds import SteadyAdds
from harness.steady_imports import SteadyImports
from harness.steady_streams import WRITES, disorder, resumed_stream, streaming
from harness.stores import Store

from userservice_server.check import check
from userservice_server.store.keys import Keys
from userservice_server.store.partitions import slot_of

pytestmark = pytest.mark.long

USERS = sized(2000, 5000)
UPDATED = 24  # users who are updated concurrently
STREAMS = sized(4, 40)
STEPS = sized(1, 4)  # migrations of each master
PAUSE = 1.0 if FULL else 0.2  # seconds between two migrations
SLOTS_OF_PARTITIONS = [slot_of(table.rows) for table in Keys("userservice", 16).all_users()]
SLOWEST = 5.0  # seconds; generous, because other programs use the machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("valkey", masters=3) as made:
        yield made


@pytest.fixture
def service(cluster: Cluster) -> Iterator[Service]:
    with Service(redis_url=cluster.url) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
async def stubs(service: Service) -> AsyncIterator[Stubs]:
    async with connect(service.address) as connected:
        yield connected


def move(cluster: Cluster, sources: list[Store], target: Store) -> int:
    """Moves the first third of the slots of each source to the target; returns the number of moved partitions."""
    moved = 0
    for source in sources:
        first, last = cluster.ranges_of(source)[0]
        last = first + (last - first) // 3
        for begin in range(first, last + 1, (last - first) // STEPS + 1):
            end = min(last, begin + (last - first) // STEPS)
            cluster.migrate_slots(begin, end, source, target)
            moved += sum(begin <= slot <= end for slot in SLOTS_OF_PARTITIONS)
            time.sleep(PAUSE)
    return moved


@pytest.mark.timeout(300)
async def test_slots_move_to_a_new_master_under_load(
    cluster: Cluster, service: Service, stubs: Stubs, dice: random.Random
) -> None:
    added = await add_users(stubs, [f"u{number}" for number in range(USERS)])
    expected = sorted(added, key=lambda user_id: added[user_id].id)
    sources = cluster.masters
    target = await asyncio.to_thread(cluster.add_master)
    adds = SteadyAdds(stubs, "a")
    updates = ChainedUpdates(stubs, {user_id: added[user_id] for user_id in expected[:UPDATED]})
    imports = SteadyImports(service.address, expected[UPDATED:], WRITES)
    async with (
        streaming(stubs, service.address, expected, dice, STREAMS) as counts,
        imports.running(),
        adds.running(),
        updates.running(),
    ):
        await adds.another()
        updates.outage(expected)
        adds.longest = 0.0
        started, before = time.monotonic(), imports.applied
        moved = await asyncio.to_thread(move, cluster, sources, target)
        seconds = time.monotonic() - started
        rate = (imports.applied - before) / seconds
        slowest = max(updates.outage(expected), adds.longest)
        streams_while_moving = counts["streams"]
        adds.longest = 0.0
        await asyncio.sleep(seconds)  # the control run
        control = max(updates.outage(expected), adds.longest)
    writes = len(adds.acknowledged) + updates.acknowledged
    print(  # noqa: T201 - the figure
        f"CLUSTER MIGRATESLOTS: {moved} of 16 partitions moved in {seconds:.1f} s, {dict(counts)}, {writes} single "
        f"writes, {imports.applied} imported rows, {rate:.0f}/s while slots moved, "
        f"slowest write {slowest:.3f} s, without a migration {control:.3f} s, failed attempts {adds.reasons}"
        f"{dict(updates.failed)}"
    )
    assert moved >= len(sources)
    assert len([slot for slot in SLOTS_OF_PARTITIONS if cluster.owner(slot) is target]) == moved
    assert disorder(counts) == {}
    assert counts["streams"] >= STREAMS
    assert counts["resumed"]
    assert imports.applied
    assert counts["by clients"]
    assert streams_while_moving
    # No attempt failed, so none failed after the retries of a client either.
    assert (adds.reasons, dict(updates.failed)) == (set(), {})
    assert (updates.lost, updates.unrecorded) == (0, 0)
    assert (imports.failed, imports.broken, await imports.missing(stubs)) == (0, 0, [])
    assert slowest < SLOWEST
    found = [user_id for user_id in await resumed_stream(stubs, 1000) if not user_id.startswith("new")]
    assert sorted(found) == sorted([*added, *adds.acknowledged])
    assert check(cluster.url, "userservice", 5).findings == []
