"""A master is cut off together with a service, while the other nodes promote one of its replicas.

Services on both sides update users with --wait-replicas. FAULTS=full: 4 divisions instead of 1 for each case, and
another case, in which acknowledged updates are lost and counted.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from harness.chained_updates import ChainedUpdates
from harness.connections import Stubs, connect
from harness.divisible_clusters import DivisibleCluster, divisible_cluster
from harness.networks import CLIENTS, Network
from harness.observed_reads import ObservedReads
from harness.population import add_users
from harness.services import Service
from harness.sizing import FULL, sized
from harness.steady_histories import SteadyHistories
from harness.waiting import until

from userservice_server.check import check
from userservice_server.store.keys import Keys
from userservice_server.store.partitions import slot_of

pytestmark = pytest.mark.long

NODE_TIMEOUT_MS = 1000
STORE_TIMEOUT = "0.8"  # below the node timeout
DIVISIONS = sized(1, 4)
UPDATED = 32  # users of each service
HISTORIES = 8
KEYS = Keys("userservice", 16)
MAJORITY, MINORITY = CLIENTS


@dataclass(frozen=True)
class Case:
    """How many replicas are cut off with their master, and how many replicas must confirm a write."""

    cut_off: int
    wait: int

    @property
    def is_safe(self) -> bool:
        """Whether the replicas on the side of the master are too few to confirm a write."""
        return self.cut_off < self.wait


CASES = [Case(0, 1), Case(1, 2), *([Case(1, 1)] if FULL else [])]


@pytest.fixture(scope="module", name="divisible")
def _divisible() -> Iterator[tuple[Network, DivisibleCluster]]:
    with divisible_cluster("valkey", masters=3, replicas=2, node_timeout_ms=NODE_TIMEOUT_MS) as made:
        yield made


async def divide(network: Network, cluster: DivisibleCluster, case: Case, number: int, others: ChainedUpdates) -> None:
    """Cuts off a master and a service until a replica is promoted and, if possible, executes other writes."""
    victim = (await asyncio.to_thread(lambda: cluster.masters))[number % 3]
    replicas = await asyncio.to_thread(cluster.replicas_of, victim)
    ranges = await asyncio.to_thread(cluster.ranges_of, victim)
    affected = [user_id for user_id in others.confirmed if is_in(ranges, slot_of(KEYS.users(user_id).rows))]
    network.divide([MINORITY, *(cluster.places[node] for node in (victim, *replicas[: case.cut_off]))])
    await asyncio.to_thread(until, lambda: any(map(cluster.is_master, replicas[case.cut_off :])), 30)
    if not case.cut_off:  # otherwise too few replicas are left to confirm writes
        others.outage(affected)
        await asyncio.to_thread(until, lambda: bool(others.outage(affected)), 30)
    await asyncio.sleep(1)
    network.join()
    await asyncio.to_thread(cluster.settle, 2)


def is_in(ranges: list[tuple[int, int]], slot: int) -> bool:
    return any(first <= slot <= last for first, last in ranges)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES, ids=[f"{case.cut_off}-of-2-cut-off-wait-{case.wait}" for case in CASES])
async def test_a_master_is_cut_off(
    divisible: tuple[Network, DivisibleCluster], case: Case, dice: random.Random
) -> None:
    network, cluster = divisible
    cluster.empty()
    arguments = ("--store-timeout", STORE_TIMEOUT, "--wait-replicas", str(case.wait))
    async with AsyncExitStack() as closing:
        services: list[Service] = []
        stubs: list[Stubs] = []
        for host in (MAJORITY, MINORITY):
            services.append(closing.enter_context(Service(*arguments, redis_url=cluster.url_at(host))))
            stubs.append(await closing.enter_async_context(connect(services[-1].address)))
        users = [await add_users(stubs[side], [f"{side}u{number}" for number in range(UPDATED)]) for side in (0, 1)]
        chains = [ChainedUpdates(stubs[side], users[side], pause=0.05) for side in (0, 1)]
        others = await add_users(stubs[0], [f"h{number}" for number in range(HISTORIES)])
        histories = SteadyHistories(stubs[0], others, dice, stubs[1])
        reads = ObservedReads({"majority": stubs[0], "minority": stubs[1]}, chains, dice)
        async with chains[0].running(), chains[1].running(), reads.running():
            for number in range(DIVISIONS):
                async with histories.running():
                    await asyncio.sleep(0.5)
                    await divide(network, cluster, case, number, chains[0])
                    await until_updated(chains[1])
        for service in services:
            assert await asyncio.to_thread(service.stop) == 0
    lost, unrecorded = (sum(getattr(chain, name) for chain in chains) for name in ("lost", "unrecorded"))
    acknowledged = sum(chain.acknowledged for chain in chains)
    observed = {name: dict(counts) for name, counts in reads.counts.items()}
    print(  # noqa: T201 - the figure
        f"{case}, {DIVISIONS} divisions: {acknowledged} acknowledged updates, lost {lost}, "
        f"applied without record {unrecorded}, failed attempts {[dict(chain.failed) for chain in chains]}; "
        f"{histories.calls} calls in histories, unknown {histories.unknown}, unexplained {len(histories.unexplained)}; "
        f"reads {observed}, of unconfirmed updates that vanished {dict(reads.vanished())}"
    )
    assert all(chain.acknowledged and chain.failed for chain in chains)
    assert histories.unknown
    assert unrecorded == 0
    if case.is_safe:
        assert (lost, histories.unexplained) == (0, [])
    assert check(cluster.url_at(MAJORITY), "userservice", 5).findings == []


async def until_updated(chain: ChainedUpdates) -> None:
    """Waits until an update of every user of the chain is acknowledged."""
    seen = {user_id: len(etags) for user_id, etags in chain.confirmed.items()}
    async with asyncio.timeout(30):
        while any(len(chain.confirmed[user_id]) == count for user_id, count in seen.items()):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
