"""The foreign clients, each built at its first use in a test session."""

from collections.abc import Callable, Iterator

import pytest
from harness.foreign import ForeignClient, connect_node_client, go_client, grpc_js_client
from harness.services import Service
from harness.stores import Store

BUILDERS: dict[str, Callable[[], ForeignClient]] = {
    "grpc-go": go_client,
    "grpc-js": grpc_js_client,
    "connect-node": connect_node_client,
}


@pytest.fixture(scope="session", params=BUILDERS)
def client(request: pytest.FixtureRequest) -> ForeignClient:
    return BUILDERS[request.param]()


@pytest.fixture(scope="session")
def clients() -> list[ForeignClient]:
    return [build() for build in BUILDERS.values()]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Store() as store, Service(redis_url=store.url) as service:
        yield service
        assert service.stop() == 0
