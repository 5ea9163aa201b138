"""A connection whose call waits carries pings, so that NAT gateways and load balancers do not drop the connection."""

import asyncio

import pytest
from harness.proxies import Proxy
from harness.services import Service
from harness.waiting import until

from userservice import UserManager

PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00"  # HTTP/2: 8 bytes of payload, type PING, no flags, no stream


@pytest.mark.long
async def test_a_stream_that_is_not_read_pings_its_connection_every_20_s(large_service: Service) -> None:
    pings: list[bytes] = []

    def count(sent: bytes) -> bool:
        pings.extend([PING] * sent.count(PING))
        return False

    with Proxy(large_service.port) as proxy:
        proxy.hold_before = count
        async with UserManager(proxy.address) as manager:
            chunks = manager.list_chunked(chunk_size=10)
            await anext(chunks)
            pings.clear()
            await asyncio.to_thread(until, lambda: pings, 24)
            assert len(await anext(chunks)) == 10
            await chunks.aclose()
