"""The nodes of a Redis or Valkey Cluster, and the map of slots to nodes, which every node reports."""

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from userservice_server.errors import StoreUnavailableError
from userservice_server.store.failures import UnsuitableStoreError, unavailable
from userservice_server.store.partitions import SLOTS
from userservice_server.store.topology.single import connections_of

Address = tuple[str, int]

_QUESTION_SECONDS = 0.5  # a node that does not answer delays the question to the next one
_SAME_HOST = ("", "?")  # a node that cannot determine its own address


def address_of(host: Any, port: int, asked: str) -> Address:
    """Returns an address that a node reported; an empty or unknown host means the host that was asked."""
    name = host.decode() if isinstance(host, bytes) else host or ""
    return (asked if name in _SAME_HOST else name, port)


@dataclass(frozen=True, slots=True)
class SlotMap:
    """The masters of all slots.

    Attributes:
        starts: the first slot of each range, in order.
        masters: the master of each range.
        node_ids: the ids of all nodes, which the nodes keep when their addresses change.
    """

    starts: tuple[int, ...]
    masters: tuple[Address, ...]
    node_ids: frozenset[bytes] = frozenset()

    @classmethod
    def parse(cls, reply: Sequence[Sequence[Any]], asked: str) -> Self | None:
        """Reads the reply to CLUSTER SLOTS; returns None if it does not cover all slots."""
        entries = sorted(
            (int(first), int(last), address_of(master[0], int(master[1]), asked)) for first, last, master, *_ in reply
        )
        following = 0
        for first, last, _ in entries:
            if first != following:
                return None
            following = last + 1
        if following != SLOTS:
            return None
        node_ids = frozenset(node_id for _, _, *nodes in reply for _, _, *more in nodes for node_id in more[:1])
        return cls(tuple(first for first, *_ in entries), tuple(master for *_, master in entries), node_ids)

    def master(self, slot: int) -> Address:
        """Returns the master of a slot."""
        return self.masters[bisect_right(self.starts, slot) - 1]


class ClusterServers:
    """The nodes of a cluster.

    Args:
        url: URL with the options of the nodes, in a form that redis-py accepts; its address is not used.
        seeds: addresses of some nodes.

    Raises:
        ValueError: the URL is invalid. The error text may contain the URL.
    """

    def __init__(self, url: str, seeds: Sequence[Address]) -> None:
        self._pool = connections_of(url)
        self._seeds = seeds
        self._node_ids: frozenset[bytes] = frozenset()

    def make_connection(self, address: Address) -> AbstractConnection:
        """Returns a new, unconnected connection to a node."""
        host, port = address
        options: dict[str, Any] = {**self._pool.connection_kwargs, "host": host, "port": port}
        return self._pool.connection_class(**options)

    async def find(self, known: Sequence[Address]) -> SlotMap:
        """Asks one node after the other for the map of slots, first the known nodes, then the seeds.

        Raises:
            StoreUnavailableError: no node reports a map that covers all slots. The cause is UnsuitableStoreError if
                this is no cluster, or not completely covered.
        """
        failure: Exception | None = None
        replacement: SlotMap | None = None
        for address in dict.fromkeys((*known, *self._seeds)):
            try:
                async with asyncio.timeout(_QUESTION_SECONDS):
                    found = await self._ask(address)
            except (RedisError, OSError, UnsuitableStoreError) as error:  # TimeoutError is an OSError
                if failure is None or isinstance(error, (AuthenticationError, UnsuitableStoreError)):
                    failure = error
                continue
            if self._is_same(found):
                return self._used(found)
            if address in self._seeds:
                replacement = replacement or found
        if replacement is not None:
            return self._used(replacement)
        if isinstance(failure, StoreUnavailableError):
            raise failure
        raise unavailable(failure)

    def _is_same(self, found: SlotMap) -> bool:
        """Returns whether a map has a node in common with the last map.

        The address of a lost node can be given to a node of another cluster, whose map must not be used. But if a seed
        leads to another cluster and no node of the last map is found, an operator has replaced the cluster.
        """
        return not self._node_ids or not self._node_ids.isdisjoint(found.node_ids)

    def _used(self, found: SlotMap) -> SlotMap:
        self._node_ids = found.node_ids
        return found

    async def _ask(self, address: Address) -> SlotMap:
        connection = self.make_connection(address)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("CLUSTER", "SLOTS")
            reply = await connection.read_response()
        except NoPermissionError as error:
            raise UnsuitableStoreError("the Redis user may not run CLUSTER SLOTS; docs/topologies.md") from error
        except ResponseError as error:
            raise UnsuitableStoreError("the server is not part of a cluster; use redis://HOST:PORT/0") from error
        finally:
            await connection.disconnect(nowait=True)
        found = SlotMap.parse(reply, address[0])
        if found is None:
            raise UnsuitableStoreError("the cluster does not cover all slots")
        return found
