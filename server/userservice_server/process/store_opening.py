"""Opens the store when a process starts."""

from collections.abc import Callable

from userservice_server.config import ConfigError, Store, unreadable_redis_url
from userservice_server.errors import StoreUnavailableError
from userservice_server.store.events import StoreEvents
from userservice_server.store.failures import UnsuitableStoreError, why
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.supervision import wait_until_open


async def open_store(
    settings: Store, is_over: Callable[[], bool], loading: Callable[[], None], limit: float, events: StoreEvents | None
) -> RedisStore:
    """Opens the store and returns it. The store is not open if ``is_over`` returned True first.

    Arguments: see ``wait_until_open``; ``events`` observes the store.

    Raises:
        ConfigError: the URL is invalid, or the store does not answer or cannot be used.
    """
    try:
        store = RedisStore(settings.url, key_prefix=settings.key_prefix, timeout=settings.timeout, events=events)
    except ValueError:
        raise unreadable_redis_url() from None
    try:
        await wait_until_open(store, is_over, loading, limit)
    except (StoreUnavailableError, UnsuitableStoreError) as error:
        await store.close()
        is_unsuitable = isinstance(error, UnsuitableStoreError)
        text = str(error) if is_unsuitable else f"the store at --redis-url is unavailable: {why(error)}"
        raise ConfigError(text) from error
    return store
