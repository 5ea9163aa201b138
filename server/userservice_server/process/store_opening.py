"""Opens the store when a process starts."""

from collections.abc import Callable

from userservice_server.config import ConfigError, Store, StoreUrl, unreadable_redis_url
from userservice_server.config import Topology as Kind
from userservice_server.errors import StoreUnavailableError
from userservice_server.store.events import StoreEvents
from userservice_server.store.failures import UnsuitableStoreError, why
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.supervision import wait_until_open
from userservice_server.store.topology import Topology
from userservice_server.store.topology.cluster import ClusterServers
from userservice_server.store.topology.sentinel import SentinelServers
from userservice_server.store.topology.single import SingleServer


async def open_store(
    settings: Store, is_over: Callable[[], bool], loading: Callable[[], None], limit: float, events: StoreEvents | None
) -> RedisStore:
    """Opens the store and returns it. The store is not open if ``is_over`` returned True first.

    Arguments: see ``wait_until_open``; ``events`` observes the store.

    Raises:
        ConfigError: the URL is invalid, or the store does not answer or cannot be used.
    """
    try:
        topology = _topology(settings)
    except ValueError:
        raise unreadable_redis_url() from None
    store = RedisStore(
        topology,
        key_prefix=settings.key_prefix,
        timeout=settings.timeout,
        partitions=settings.partitions,
        wait_replicas=settings.wait_replicas,
        events=events,
    )
    try:
        await wait_until_open(store, is_over, loading, limit)
    except (StoreUnavailableError, UnsuitableStoreError) as error:
        await store.close()
        is_unsuitable = isinstance(error, UnsuitableStoreError)
        text = str(error) if is_unsuitable else f"the store at --redis-url is unavailable: {why(error)}"
        raise ConfigError(text) from error
    return store


def _topology(settings: Store) -> Topology | ClusterServers:
    """Returns the topology of the URL; raises ValueError if redis-py rejects an option of the URL."""
    url = StoreUrl.parse(settings.url)
    if url.topology is Kind.SENTINEL:
        return SentinelServers(url.server, url.addresses, url.service, url.sentinel_credentials, settings.timeout)
    if url.topology is Kind.CLUSTER:
        return ClusterServers(url.server, url.addresses)
    return SingleServer(url.server)
