"""A store that Sentinels monitor: planned failovers, lost primaries, lost Sentinels, wrong URLs."""

import asyncio
import signal
from collections.abc import Iterator

import pytest
from google.protobuf.duration_pb2 import Duration
from harness.connections import connect, health
from harness.population import add_users, names, read_chunks
from harness.ports import free_port
from harness.refusals import refusal_of
from harness.sentinels import Sentinels
from harness.services import Service
from harness.steady_adds import SteadyAdds
from harness.stores import BACKENDS, Store
from harness.waiting import until

from userservice.v1.session_service_pb2 import AddSessionRequest
from userservice_server.check import check

DOWN_AFTER_MS = 1000
PLANNED_SECONDS = 3.0
NOTICED_SECONDS = 2.0
LOST_SECONDS = 12.0  # down-after, the vote of the Sentinels, and the next connections


@pytest.fixture(
    scope="module", params=[pytest.param("redis"), pytest.param("valkey", marks=pytest.mark.long)], name="sentinels"
)
def supervised(request: pytest.FixtureRequest) -> Iterator[Sentinels]:
    assert request.param in BACKENDS
    with Sentinels(request.param, replicas=2, down_after_ms=DOWN_AFTER_MS) as sentinels:
        yield sentinels


@pytest.mark.long
async def test_a_planned_failover_needs_no_restart(sentinels: Sentinels) -> None:
    with Service(redis_url=sentinels.url) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, [f"u{number}" for number in range(50)])
            adds = SteadyAdds(stubs)
            async with adds.running():
                await adds.another()
                await asyncio.to_thread(sentinels.fail_over)
                await asyncio.sleep(NOTICED_SECONDS)  # the old primary still accepts writes, which will be lost
                kept = len(adds.acknowledged)
                await adds.another()
            assert adds.reasons <= {"STORE_UNAVAILABLE"}
            assert adds.longest < PLANNED_SECONDS
            await asyncio.to_thread(until, lambda: health(service.address) == "SERVING")
            found = names(await read_chunks(stubs))
            assert len(found) == len(set(found))
            assert set(adds.acknowledged[kept:]) <= set(found)
            assert set(found) <= {f"u{number}" for number in range(50)} | set(adds.acknowledged)
            await stubs.sessions.AddSession(AddSessionRequest(user_id="u0", session_id="s", ttl=Duration(seconds=1)))
            with sentinels.client() as client:  # expired sessions are removed from the new primary too
                await asyncio.to_thread(until, lambda: not client.exists("userservice:{0}:session_expiry:u0"))
            assert await asyncio.to_thread(service.stop) == 0
    # The check asks the Sentinels too.
    report = check(sentinels.url, "userservice", 5)
    assert (report.findings, report.users) == ([], len(found))


@pytest.mark.long
async def test_a_primary_that_is_killed_is_replaced(sentinels: Sentinels) -> None:
    primary = sentinels.primary
    with Service(redis_url=sentinels.url) as service:
        async with connect(service.address) as stubs:
            adds = SteadyAdds(stubs, "killed")
            async with adds.running():
                await adds.another()
                await asyncio.to_thread(primary.kill)
                await asyncio.to_thread(until, lambda: health(service.address) == "NOT_SERVING")
                await asyncio.to_thread(sentinels.wait_for_another, primary)
                await adds.another()
            assert adds.reasons == {"STORE_UNAVAILABLE"}
            assert adds.longest < LOST_SECONDS
            await asyncio.to_thread(until, lambda: health(service.address) == "SERVING")
            found = names(await read_chunks(stubs))
            assert len(found) == len(set(found))
    assert check(sentinels.url, "userservice", 5).findings == []
    primary.start()  # the Sentinels make it a replica, because the next test needs all servers
    with primary.client() as client:
        until(lambda: client.info("replication")["role"] == "slave", within=30)
        until(lambda: client.info("replication")["master_link_status"] == "up", within=30)


@pytest.mark.long
async def test_a_sentinel_that_hangs_or_has_exited_does_not_prevent_the_start(sentinels: Sentinels) -> None:
    url = sentinels.url.replace("redis-sentinel://", f"redis-sentinel://127.0.0.1:{free_port()},")
    frozen = sentinels.sentinels[0]
    frozen.send(signal.SIGSTOP)
    try:
        with Service(redis_url=url) as service:
            async with connect(service.address) as stubs:
                await add_users(stubs, ["hang"])
    finally:
        frozen.send(signal.SIGCONT)


@pytest.mark.long
def test_an_unknown_name_is_an_error(sentinels: Sentinels) -> None:
    line = refusal_of(redis_url=sentinels.url + "-of-others")
    assert "no Sentinel reports an available primary with this name" in line


def test_a_server_that_is_not_a_sentinel_is_an_error() -> None:
    with Store(port=free_port()) as store:
        line = refusal_of(redis_url=f"redis-sentinel://127.0.0.1:{store.port}/users")
    assert "a server at --redis-url is not a Sentinel" in line


def test_a_sentinel_that_is_given_as_a_server_is_an_error(sentinels: Sentinels) -> None:
    line = refusal_of(redis_url=f"redis://127.0.0.1:{sentinels.ports[0]}/0")
    assert "for a Sentinel, use redis-sentinel://" in line
