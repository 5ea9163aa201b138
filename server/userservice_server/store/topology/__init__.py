"""Topologies: where the servers of the store are. Each topology supplies unconnected connections of redis-py.

Redis-py does the handshake, TLS, authentication and the discovery by Sentinels. SharedConnection sends the commands.
"""

from typing import Protocol

from redis.asyncio.connection import AbstractConnection


class Topology(Protocol):
    """A store whose partitions are all on one server, which can change after a failover."""

    def make_connection(self) -> AbstractConnection:
        """Returns a new, unconnected connection to the server that accepts writes."""

    async def has_moved(self) -> bool:
        """Returns whether another server accepts writes than the one that the last connection was made to."""

    async def close(self) -> None:
        """Releases the resources of the topology."""
