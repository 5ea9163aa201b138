"""Connects to the servers of the store that is checked."""

from collections.abc import Callable
from typing import Any, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from userservice_server.config import ConfigError, StoreUrl, Topology, unreadable_redis_url
from userservice_server.store.partitions import slot_of
from userservice_server.store.topology.cluster import SlotMap
from userservice_server.store.topology.sentinel import SENTINEL_PERMISSION


class Servers:
    """Clients of all servers of a store that accept writes.

    Attributes:
        clients: one client for each server.
    """

    def __init__(self, clients: list[Redis], slots: SlotMap | None = None) -> None:
        self.clients = clients
        self._slots = slots
        self._of_address = dict(zip(dict.fromkeys(slots.masters), clients, strict=True)) if slots else {}

    def of(self, key: bytes | str) -> tuple[Redis, int]:
        """Returns the client of the server that has a key, and the slot of the key in a cluster."""
        slot = slot_of(key if isinstance(key, bytes) else key.encode())
        return (self.clients[0] if self._slots is None else self._of_address[self._slots.master(slot)]), slot

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()


def connect(url: str, timeout: float) -> Servers:
    """Returns clients of the servers that accept writes: one, or the masters of a cluster.

    Args:
        url: URL of the store.
        timeout: limit in seconds for connecting and for each reply.

    Raises:
        ConfigError: the URL is invalid, or leads to another topology.
        redis.exceptions.RedisError: the servers cannot be found.
    """
    place = StoreUrl.parse(url)
    options: dict[str, Any] = {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
    }
    try:
        client = Redis.from_url(place.server, **options)
        client.connection_pool.make_connection()  # does not connect; only checks the options of the URL
    except (ValueError, TypeError, RedisError):
        raise unreadable_redis_url() from None
    if place.topology is Topology.SINGLE:
        return Servers([client])
    client.close()

    def at(address: tuple[str, int]) -> Redis:
        found = Redis.from_url(place.server, **options)
        found.connection_pool.connection_kwargs.update(host=address[0], port=address[1])
        return found

    if place.topology is Topology.SENTINEL:
        return Servers([at(_primary(place, client, options))])
    slots = _slots(place, at)
    return Servers([at(address) for address in dict.fromkeys(slots.masters)], slots)


def _primary(place: StoreUrl, client: Redis, options: dict[str, Any]) -> tuple[str, int]:
    """Asks the Sentinels for the address of the primary."""
    of_servers = client.connection_pool.connection_kwargs
    tls = {name: value for name, value in of_servers.items() if name.startswith("ssl_")}
    of_sentinels = {**options, **tls, **place.sentinel_credentials, "ssl": place.server.startswith("rediss:")}
    manager = Sentinel(list(place.addresses), sentinel_kwargs=of_sentinels)  # type: ignore[no-untyped-call]
    try:
        host, port = manager.discover_master(place.service)  # type: ignore[no-untyped-call]
    except NoPermissionError as error:
        raise ConfigError(SENTINEL_PERMISSION) from error
    except ResponseError as error:
        raise ConfigError("a server at --redis-url is not a Sentinel") from error
    finally:
        for sentinel in manager.sentinels:
            sentinel.close()
    return host, port


def _slots(place: StoreUrl, at: Callable[[tuple[str, int]], Redis]) -> SlotMap:
    """Asks the nodes of the URL for the map of slots; uses the first answer."""
    failure: RedisError | None = None
    for address in place.addresses:
        with at(address) as node:
            try:
                found = SlotMap.parse(node.execute_command("CLUSTER", "SLOTS"), address[0])
            except NoPermissionError as error:
                raise ConfigError("the Redis user may not run CLUSTER SLOTS; docs/topologies.md") from error
            except ResponseError as error:
                raise ConfigError("the server at --redis-url is not part of a cluster") from error
            except RedisError as error:
                if failure is None or isinstance(error, AuthenticationError):
                    failure = error
                continue
        if found is None:
            raise ConfigError("the cluster at --redis-url does not cover all slots")
        return found
    raise failure or RedisError("the URL has no address")
