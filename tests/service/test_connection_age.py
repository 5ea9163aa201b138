"""`--max-connection-age`: clients connect again and lose no call, and a replica that is added later gets calls."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle

import grpc
import pytest
from harness.connections import connect
from harness.population import fill
from harness.proxies import Proxy
from harness.services import Service
from harness.stores import Store

from userservice import SyncUserManager, UserManager
from userservice.v1.user_service_pb2 import ListUsersChunkedRequest, ListUsersRequest

AGE = ("--max-connection-age", "0.5", "--max-connection-age-grace", "60")
USERS = 3000
SECONDS = 4


class Balancer(Proxy):
    """A layer-4 load balancer: distributes connections, not calls, over the current services."""

    def __init__(self, *ports: int) -> None:
        self.ports = list(ports)
        self._turns = cycle(range(1_000_000))
        super().__init__(ports[0])

    def next_target(self) -> int:
        return self.ports[next(self._turns) % len(self.ports)]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store() as store:
        fill(store, (f"u{number}" for number in range(USERS)))
        yield store


def calls_of(service: Service) -> int:
    return len(service.log_lines_with('"message":"call"'))


@pytest.mark.long
async def test_a_replica_that_is_added_later_gets_calls(store: Store) -> None:
    """The calls have no retries, so a call that is cut at the connection's age would fail the test."""
    with (
        Service(*AGE, redis_url=store.url) as first,
        Service(*AGE, redis_url=store.url) as second,
        Balancer(first.port) as balancer,
    ):
        async with connect(balancer.address) as stubs:
            for seconds in (1, SECONDS):
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    await stubs.users.ListUsers(ListUsersRequest(limit=1), timeout=10)
                    await asyncio.sleep(0.002)
                balancer.ports = [first.port, second.port]
        assert balancer.accepted >= SECONDS, "the connection was not replaced"
        assert second.stop() == 0
        assert first.stop() == 0
        assert calls_of(second) >= calls_of(first) // 10
        print(f"{balancer.accepted} connections, calls: {calls_of(first)} and {calls_of(second)}")  # noqa: T201


@pytest.mark.long
async def test_the_managers_lose_no_call_and_no_user(store: Store) -> None:
    with Service(*AGE, redis_url=store.url) as service, Proxy(service.port) as proxy:
        calls: Counter[str] = Counter()
        ends = time.monotonic() + SECONDS
        blocking = threading.Thread(target=call_blocking, args=(proxy.address, ends, calls))
        blocking.start()
        async with UserManager(proxy.address) as manager:
            while time.monotonic() < ends:
                await manager.get("u1")
                calls["async"] += 1
                seen = [user.user_id async for users in manager.list_chunked(chunk_size=100) for user in users]
                assert len(seen) == len(set(seen)) == USERS
        await asyncio.to_thread(blocking.join)
        assert proxy.accepted >= 2 * SECONDS, "the connections were not replaced"
        assert calls["async"]
        assert calls["blocking"]
        assert {line["code"] for line in service.log if line.get("method") == "GetUser"} == {"OK"}


def call_blocking(address: str, ends: float, calls: Counter[str]) -> None:
    with SyncUserManager(address) as manager:
        while time.monotonic() < ends:
            manager.get("u1")
            calls["blocking"] += 1


@pytest.mark.parametrize("grace", ["60", "1"])
@pytest.mark.long
async def test_a_stream_continues_after_its_connections_age_until_the_grace_period_ends(
    store: Store, grace: str
) -> None:
    arguments = ("--max-connection-age", "0.2", "--max-connection-age-grace", grace)
    ended: list[grpc.StatusCode] = []
    with Service(*arguments, redis_url=store.url) as service:
        async with connect(service.address, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)) as stubs:
            users = 0
            try:
                async for chunk in stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=100)):
                    users += len(chunk.users)
                    await asyncio.sleep(0.06)  # 1.8 s in all
            except grpc.aio.AioRpcError as error:
                ended.append(error.code())
    assert (users == USERS, ended) == ((True, []) if grace == "60" else (False, [grpc.StatusCode.UNAVAILABLE]))
