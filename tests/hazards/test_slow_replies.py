"""A long reply that arrives slowly does not make the store unavailable; a reply that stops does."""

import asyncio

import grpc
import pytest
from harness.connections import connect
from harness.failures import failure_of
from harness.population import fill
from harness.proxies import Proxy
from harness.services import Service
from harness.stores import Store

from userservice.v1.user_service_pb2 import ListUsersRequest

STORE_TIMEOUT = 0.6


@pytest.mark.long
async def test_a_long_reply_can_take_longer_than_the_store_timeout() -> None:
    with Store() as store, Proxy(store.socket, delay=STORE_TIMEOUT / 2) as proxy:
        fill(store, (f"u{number}" for number in range(15)), [60_000] * 15)
        with Service("--store-timeout", str(STORE_TIMEOUT), redis_url=proxy.url) as service:
            async with connect(service.address) as stubs:
                started = asyncio.get_running_loop().time()
                page = await stubs.users.ListUsers(ListUsersRequest(limit=15), timeout=30)
                assert len(page.users) == 15
                assert asyncio.get_running_loop().time() - started > STORE_TIMEOUT, "too fast, so nothing was shown"
            assert not service.log_lines_with("store unavailable")


async def test_a_long_reply_that_stops_is_overdue() -> None:
    with Store() as store, Proxy(store.socket) as proxy:
        fill(store, (f"u{number}" for number in range(15)), [60_000] * 15)
        with Service("--store-timeout", str(STORE_TIMEOUT), redis_url=proxy.url) as service:
            async with connect(service.address) as stubs:
                await stubs.users.ListUsers(ListUsersRequest(limit=1))
                proxy.delay = STORE_TIMEOUT / 2
                call = asyncio.ensure_future(stubs.users.ListUsers(ListUsersRequest(limit=15), timeout=30))
                await asyncio.sleep(STORE_TIMEOUT)
                proxy.black_hole = True
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await call
                assert failure_of(raised.value).reason == "STORE_UNAVAILABLE"
