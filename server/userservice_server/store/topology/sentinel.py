"""A primary that Sentinels monitor. Every new connection asks the Sentinels for the address of the primary."""

from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from userservice_server.store.failures import UnsuitableStoreError
from userservice_server.store.topology.single import connections_of

# A Sentinel that does not answer delays the question to the next one. Several of them must fit into --store-timeout.
_QUESTION_SECONDS = 0.5
_MOST_SHARE = 0.25  # of --store-timeout
_TLS = "ssl"
SENTINEL_PERMISSION = "the user of the Sentinels may not run SENTINEL MASTERS"


class _Primaries(SentinelConnectionPool):
    """Makes connections to the primary; reports an address that is not a Sentinel."""

    async def get_master_address(self) -> Any:
        try:
            return await super().get_master_address()  # type: ignore[no-untyped-call]
        except NoPermissionError as error:
            raise UnsuitableStoreError(SENTINEL_PERMISSION) from error
        except ResponseError as error:
            raise UnsuitableStoreError("a server at --redis-url is not a Sentinel") from error


class SentinelServers:
    """A store whose primary is monitored by Sentinels.

    Args:
        url: URL with the options of the servers, in a form that redis-py accepts; its address is not used.
        sentinels: hosts and ports of the Sentinels.
        service: the name under which the Sentinels monitor the primary.
        credentials: ``username`` and ``password`` for the Sentinels; none if they need none.
        timeout: limit in seconds for connecting, of which the questions to the Sentinels are a part.

    Raises:
        ValueError: the URL is invalid. The error text may contain the URL.
    """

    def __init__(
        self,
        url: str,
        sentinels: Sequence[tuple[str, int]],
        service: str,
        credentials: Mapping[str, str],
        timeout: float,
    ) -> None:
        pool = connections_of(url)
        options = {name: value for name, value in pool.connection_kwargs.items() if name not in ("host", "port")}
        uses_tls = issubclass(pool.connection_class, SSLConnection)
        seconds = min(_QUESTION_SECONDS, timeout * _MOST_SHARE)
        of_sentinels: dict[str, Any] = {
            **{name: value for name, value in options.items() if name.startswith(_TLS)},
            **credentials,
            _TLS: uses_tls,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
        }
        self._manager = Sentinel(list(sentinels), sentinel_kwargs=of_sentinels)  # type: ignore[no-untyped-call]
        self._pool = _Primaries(service, self._manager, **{_TLS: uses_tls}, **options)  # type: ignore[no-untyped-call]

    def make_connection(self) -> AbstractConnection:
        """Returns a new, unconnected connection, which asks the Sentinels for the primary when it connects."""
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return connection

    async def has_moved(self) -> bool:
        """Returns whether the Sentinels name another primary than the one of the last connection.

        If the old primary can still be reached, the Sentinels may demote it as late as 10 s after a failover. Until
        then, the old primary accepts writes, and these writes are lost.
        """
        known = self._pool.master_address
        try:
            return known is not None and await self._pool.get_master_address() != known
        except (RedisError, UnsuitableStoreError):
            return False  # no Sentinel answers: the primary may still be the same

    async def close(self) -> None:
        """Closes the connections to the Sentinels."""
        await self._manager.aclose()
