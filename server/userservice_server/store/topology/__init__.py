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
        """Returns whether writes must go to another server than that of the last connection."""

    async def close(self) -> None:
        """Releases the resources of the topology."""
