"""Clients without retries of their own lose no call when the server replaces their connections."""

import pytest
from harness.foreign import ForeignClient
from harness.proxies import Proxy
from harness.services import Service
from harness.stores import Store

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]  # the first test builds the clients

SECONDS = 6


def test_no_call_is_lost_when_connections_are_replaced(client: ForeignClient) -> None:
    age = ("--max-connection-age", "0.5", "--max-connection-age-grace", "60")
    with Store() as store, Service(*age, redis_url=store.url) as service, Proxy(service.port) as proxy:
        found = client.run("steady", proxy.address, SECONDS)
        assert proxy.accepted >= SECONDS, "the connection was not replaced"
        print(f"{client.name}: {found['outcomes']} over {proxy.accepted} connections")  # noqa: T201
        assert set(found["outcomes"]) == {"OK"}
        assert found["outcomes"]["OK"] > 10 * SECONDS
