"""One server at one address. After a failover, the address can lead to another server."""

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError


def connections_of(url: str) -> ConnectionPool:
    """Returns a pool, which is only used to make connections with the options of the URL.

    Args:
        url: URL of one server, in a form that redis-py accepts (redis://, rediss://, unix://).

    Raises:
        ValueError: the URL is invalid. The error text may contain the URL.
    """
    pool = ConnectionPool.from_url(
        url,
        protocol=2,  # with RESP3, the server may push messages that are not replies
        retry=Retry(NoBackoff(), 0),  # a retried write could be applied twice; callers retry by request_id
        health_check_interval=0,
        socket_timeout=None,  # SharedConnection enforces the timeout
        decode_responses=False,
    )
    try:
        pool.make_connection()  # type: ignore[no-untyped-call]  # does not connect; only checks the options of the URL
    except (TypeError, RedisError) as error:
        raise ValueError("the URL has an unknown option") from error
    return pool


class SingleServer:
    """A store on one server.

    Args:
        url: URL of the server, in a form that redis-py accepts.

    Raises:
        ValueError: the URL is invalid. The error text may contain the URL.
    """

    def __init__(self, url: str) -> None:
        self._pool = connections_of(url)

    def make_connection(self) -> AbstractConnection:
        """Returns a new, unconnected connection, which resolves the address again when it connects."""
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return connection

    async def has_moved(self) -> bool:
        """Returns False: without Sentinels, only the address determines the server."""
        return False

    async def close(self) -> None:
        """Does nothing: the caller of `make_connection` closes the connections."""
