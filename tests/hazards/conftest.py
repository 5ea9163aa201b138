"""A service with a large store, for tests that need more data than buffers can contain."""

import asyncio
from collections.abc import Iterator

import pytest
from harness.connections import connect
from harness.population import add_users, struct
from harness.services import Service
from harness.stores import Store

USERS = 1500


@pytest.fixture(scope="module")
def large_service() -> Iterator[Service]:
    """A service of 1500 users, 12 MB in all."""

    async def populate(address: str) -> None:
        async with connect(address) as stubs:
            user_ids = [f"u{number}" for number in range(USERS)]
            await add_users(stubs, user_ids, metadata=struct({"k": "x" * 8000}))

    with Store() as store, Service(redis_url=store.url) as service:
        asyncio.run(populate(service.address))
        yield service
        assert service.stop() == 0
