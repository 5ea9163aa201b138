"""Services and stores that many tests share; one of each per backend."""

import signal
from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest
from harness.clusters import Cluster, wait_for_partitions
from harness.connections import Stubs, connect
from harness.services import Service
from harness.stores import Store
from harness.topologies import TOPOLOGIES
from hypothesis import HealthCheck, settings

# A shell ignores Ctrl-C in background jobs, and the programs that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine must not fail a test: Hypothesis limits the time of an example and of the making of examples.
settings.register_profile("tests", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture(scope="session", params=["valkey", pytest.param("redis", marks=pytest.mark.long)])
def backend(request: pytest.FixtureRequest) -> str:
    """The program of the store. `make test` runs the contract cases on Redis, and the other tests only on Valkey."""
    return str(request.param)


@pytest.fixture(scope="session")
def shared_store(backend: str) -> Iterator[Store]:
    """A store on one server or, if the backend is a topology, on several."""
    with TOPOLOGIES[backend]() if backend in TOPOLOGIES else Store(backend) as store:
        yield cast("Store", store)  # the tests that run on topologies use only what all of them have


@pytest.fixture(scope="session")
def shared_service(shared_store: Store) -> Iterator[Service]:
    # Metrics are on, so that every call of the contract cases is also counted: a call that cannot be counted fails.
    with Service("--metrics-listen", "127.0.0.1:0", redis_url=shared_store.url) as service:
        yield service
        assert service.stop() == 0


@pytest.fixture
def store(shared_store: Store) -> Store:
    """A running, empty store."""
    shared_store.empty()
    return shared_store


@pytest.fixture
def service(store: Store, shared_service: Service) -> Service:
    """A running service that has no users."""
    if isinstance(cast("object", store), Cluster):
        wait_for_partitions(store, shared_service.address)
    return shared_service


@pytest.fixture
async def stubs(service: Service) -> AsyncIterator[Stubs]:
    """Raw stubs of a service that has no users."""
    async with connect(service.address) as connected:
        yield connected
