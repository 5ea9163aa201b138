"""The connections of a store to its servers: which connection carries a command, and how connections are replaced."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from userservice_server.store.connection import QUIET_TURNS, Rejected, Send, SharedConnection
from userservice_server.store.events import StoreEvents
from userservice_server.store.failures import MovedAwayError, unavailable
from userservice_server.store.keys import MAX_PARTITIONS
from userservice_server.store.topology import Topology

LAYOUT = MAX_PARTITIONS
"""The position of the connection to the layout of the store, in the lists of ``Links``."""
ROUTES = MAX_PARTITIONS + 1

Probe = Callable[[Send, int, bool], Awaitable[Any]]
"""Runs the script probe.lua for a partition; True: over a connection that waits for replicas. Returns 0 or 1."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What all connections of a store have in common.

    Attributes:
        admit: checks the server over a new connection.
        timeout: limit in seconds for connecting and for each reply.
        events: observes the connections.
        replicas: number of replicas that must confirm each write; 0: writes use the connection for calls.
    """

    admit: Callable[[Send], Awaitable[None]]
    timeout: float
    events: StoreEvents | None
    replicas: int = 0

    def pair(
        self, make_connection: Callable[[], AbstractConnection], rejected: Callable[[str], Rejected] | None = None
    ) -> "Pair":
        """Returns unconnected connections to one server.

        Args:
            make_connection: makes connections to the server.
            rejected: returns the handler of rejected commands of one of the connections, by its name in ``Pair``.
        """

        def line(name: str, *, is_bulk: bool = False, replicas: int = 0) -> SharedConnection:
            return SharedConnection(
                make_connection,
                self.admit,
                self.timeout,
                quiet_turns=0 if is_bulk else QUIET_TURNS,
                long_replies=is_bulk,
                events=self.events,
                rejected=rejected(name) if rejected else None,
                replicas=replicas,
            )

        calls = line("calls")
        # Long replies (pages, chunks, batches) use a separate connection, so that short replies need not wait; so do
        # writes that wait for replicas.
        return Pair(
            calls, line("bulk", is_bulk=True), line("writes", replicas=self.replicas) if self.replicas else calls
        )


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """The connections to one server: for calls, for bulk reads, and for writes.

    Writes that need not wait for replicas use the connection for calls.
    """

    calls: SharedConnection
    bulk: SharedConnection
    writes: SharedConnection

    @property
    def lines(self) -> tuple[SharedConnection, ...]:
        """All connections."""
        return (self.calls, self.bulk) if self.writes is self.calls else (self.calls, self.bulk, self.writes)

    async def open(self) -> None:
        """Connects all, in turn, so that a wrong password is tried only once."""
        for connection in self.lines:
            await connection.send("ECHO", "")

    async def probe(self, probe: Probe, partition: int) -> None:
        """Checks that the server executes writes, and is fit for them; raises StoreUnavailableError if not."""
        # One after the other: while Redis delays writes (CLIENT PAUSE WRITE, as in a planned failover), the probe waits
        # on the first connection, and reads on the second connection continue.
        for connection in self.lines:
            try:
                answer = await probe(connection.send, partition, connection in self.lines[2:])
            except RedisError as error:
                raise unavailable(error) from error
            if answer not in (0, 1):  # the reply belongs to another command
                connection.reset()
                raise unavailable(None)
            if connection.write_fault is not None:
                raise unavailable(connection.write_fault)

    def reset(self) -> None:
        """Closes the connections after a reply that cannot be right."""
        for connection in self.lines:
            connection.reset()

    async def close(self) -> None:
        """Closes the connections. Commands without a reply fail."""
        await asyncio.gather(*(connection.close() for connection in self.lines), return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Listener:
    """A server whose announcements concern some partitions.

    Attributes:
        server: identifies the server; another object after its connections were replaced.
        make_connection: makes connections to the server.
        partitions: the numbers of the partitions.
    """

    server: object
    make_connection: Callable[[], AbstractConnection] = field(compare=False)
    partitions: tuple[int, ...]


class Retired:
    """Replaced connections that still have replies to deliver."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, pair: Pair, successor: Pair | None = None) -> None:
        """Closes the connections as soon as their commands are answered; ``successor`` sends those not sent yet."""
        successors = successor.lines if successor else (None,) * len(pair.lines)
        for connection, following in zip(pair.lines, successors, strict=True):
            if task := connection.retire(following):
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Closes the connections at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Links(Protocol):
    """The connections of a store.

    Attributes:
        calls: sends a command of a call, by partition; at ``LAYOUT``, a command for the layout of the store.
        bulk: the same for bulk reads.
        writes: the same for writes.
        is_complete: whether all partitions passed the last probe.
    """

    calls: list[Send]
    bulk: list[Send]
    writes: list[Send]
    is_complete: bool

    async def open(self) -> None:
        """Connects to the server of the layout."""

    async def use(self, keys: list[bytes]) -> None:
        """Connects to the servers of the partitions, each of which has one of these keys."""

    def servers(self) -> list[Send]:
        """Returns for each server that passed the last probe how to send it a command."""

    def listeners(self) -> list[Listener]:
        """Returns the servers of all partitions."""

    async def probe(self, probe: Probe) -> None:
        """Probes the connections that calls use; raises StoreUnavailableError if no partition is available."""

    async def renew(self, probe: Probe) -> None:
        """Makes new connections, which resolves addresses again, and uses them if they pass the probe.

        Until then, and if they do not pass, the present connections stay in use: they may still serve reads.
        """

    def distrust(self) -> None:
        """Closes the connections, after a reply that cannot be right. The next command makes new ones."""

    async def close(self) -> None:
        """Closes the connections."""


class OneServer:
    """The connections of a store whose partitions are all on one server."""

    def __init__(self, topology: Topology, settings: LinkSettings) -> None:
        self.is_complete = True
        self._topology = topology
        self._settings = settings
        self._retired = Retired()
        self.calls: list[Send] = []
        self.bulk: list[Send] = []
        self.writes: list[Send] = []
        self._use(self._settings.pair(topology.make_connection))

    def _use(self, pair: Pair) -> None:
        self._pair = pair
        self.calls[:] = [pair.calls.send] * ROUTES
        self.bulk[:] = [pair.bulk.send] * ROUTES
        self.writes[:] = [pair.writes.send_write] * ROUTES

    async def open(self) -> None:
        """Connects to the server."""
        await self._pair.open()

    async def use(self, keys: list[bytes]) -> None:
        """Does nothing: all partitions are on one server."""

    def listeners(self) -> list[Listener]:
        """Returns the server."""
        return [Listener(self._pair, self._topology.make_connection, tuple(range(MAX_PARTITIONS)))]

    def servers(self) -> list[Send]:
        """Returns how to send a command to the server."""
        return [self._pair.calls.send]

    async def probe(self, probe: Probe) -> None:
        """See ``Links``."""
        if await self._topology.has_moved():
            raise unavailable(MovedAwayError())
        await self._pair.probe(probe, 0)

    async def renew(self, probe: Probe) -> None:
        """See ``Links``."""
        fresh = self._settings.pair(self._topology.make_connection)
        try:
            await fresh.probe(probe, 0)
        except BaseException:
            await fresh.close()
            raise
        old = self._pair
        self._use(fresh)
        if self._settings.events is not None:
            for _ in old.lines:
                self._settings.events.reconnected()
        self._retired.add(old, fresh)

    def distrust(self) -> None:
        """See ``Links``."""
        self._pair.reset()

    async def close(self) -> None:
        """Closes the connections."""
        await asyncio.gather(self._pair.close(), self._retired.close(), self._topology.close(), return_exceptions=True)
