"""The connections of a store in a cluster: a pair for each master that has partitions.

Every master holds the keys of some slots, and each partition has its keys in one slot. A node rejects commands for a
slot that it does not have, without executing them, and names the right node (MOVED, ASK). These commands are sent
again. A command whose connection is lost is not sent again, because it may have been executed.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError

from userservice_server.errors import StoreUnavailableError
from userservice_server.store.connection import Rejected, Send, SharedConnection
from userservice_server.store.failures import why
from userservice_server.store.links import LAYOUT, ROUTES, LinkSettings, Listener, Pair, Probe, Retired
from userservice_server.store.partitions import slot_of
from userservice_server.store.topology.cluster import Address, ClusterServers, SlotMap, address_of

MOST_REDIRECTS = 8  # of one command, by MOVED and ASK
_TRY_AGAIN_PAUSE = 0.02  # seconds; half of the keys of a script are on another node
_LOOP_PAUSE = 0.05  # seconds before a command is sent again, if a node redirects it to the node itself
_PROBE_SECONDS = 1.0  # a node without an answer after this time may have been replaced
_REFRESH_PAUSE = 0.1  # seconds between two requests for the map

logger = logging.getLogger("userservice.store")


@dataclass(slots=True, eq=False)
class _Node:
    """A master, and its connections."""

    address: Address
    pair: Pair
    is_up: bool = True


class _Line(NamedTuple):
    """A connection: the address of its node, and its name in ``Pair``."""

    address: Address
    name: str


@dataclass(slots=True)
class _History:
    """How often a command was sent again, and until when it may wait for TRYAGAIN."""

    deadline: float
    redirects: int = 0


@dataclass(slots=True)
class _Route:
    """The slot of a partition, and the node that has it."""

    slot: int
    node: _Node


class ClusterNodes:
    """The connections of a store in a cluster; see ``links.Links``.

    Args:
        servers: finds the nodes and makes connections to them.
        layout_key: the key of the layout of the store.
        settings: the settings of all connections.
    """

    def __init__(self, servers: ClusterServers, layout_key: bytes, settings: LinkSettings) -> None:
        self.calls: list[Send] = [_not_open] * ROUTES
        self.bulk: list[Send] = [_not_open] * ROUTES
        self.writes: list[Send] = [_not_open] * ROUTES
        self.is_complete = True
        self._servers = servers
        self._settings = settings
        self._slots = {LAYOUT: slot_of(layout_key)}
        self._routes: dict[int, _Route] = {}  # by position in the lists above
        self._nodes: dict[Address, _Node] = {}
        self._histories: WeakKeyDictionary[asyncio.Future[Any], _History] = WeakKeyDictionary()
        self._retired = Retired()
        self._refreshing: asyncio.Task[None] | None = None
        self._reasons: frozenset[str] = frozenset()
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Asks for the map, and connects to the node of the layout."""
        await self.refresh()
        await self._routes[LAYOUT].node.pair.open()

    async def use(self, keys: list[bytes]) -> None:
        """Connects to the nodes of the partitions."""
        self._slots = {LAYOUT: self._slots[LAYOUT], **{number: slot_of(key) for number, key in enumerate(keys)}}
        await self.refresh()
        for node in self._used():
            await node.pair.open()

    def _used(self) -> list[_Node]:
        return list({route.node.address: route.node for route in self._routes.values()}.values())

    def servers(self) -> list[Send]:
        """Returns for each node that passed the last probe how to send it a command."""
        return [node.pair.calls.send for node in self._used() if node.is_up]

    def listeners(self) -> list[Listener]:
        """See ``links.Links``."""
        partitions: dict[_Node, list[int]] = {}
        for position, route in self._routes.items():
            if position != LAYOUT:
                partitions.setdefault(route.node, []).append(position)
        make = self._servers.make_connection
        return [Listener(node, partial(make, node.address), tuple(own)) for node, own in partitions.items()]

    # The map

    async def refresh(self) -> None:
        """Asks for the map of slots and uses it; concurrent calls share one question."""
        if self._refreshing is None:
            self._refreshing = self._loop.create_task(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)
        await asyncio.shield(self._refreshing)

    def _refreshed(self, task: "asyncio.Task[None]") -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # marks it as retrieved, in case nobody waits for it

    async def _refresh(self) -> None:
        nodes = sorted(self._used(), key=lambda node: not node.is_up)  # a lost node is asked last
        self._apply(await self._servers.find([node.address for node in nodes]))

    def _refresh_soon(self) -> None:
        if self._refreshing is None:
            self._refreshing = self._loop.create_task(self._refresh_once())
            self._refreshing.add_done_callback(self._refreshed)

    async def _refresh_once(self) -> None:
        with suppress(StoreUnavailableError):
            await self._refresh()
        await asyncio.sleep(_REFRESH_PAUSE)

    def _apply(self, found: SlotMap) -> None:
        for position, slot in self._slots.items():
            self._assign(position, found.master(slot))
        used = {node.address for node in self._used()}
        for address in self._nodes.keys() - used:
            self._retired.add(self._nodes.pop(address).pair)

    def _assign(self, position: int, address: Address) -> None:
        node = self._node(address)
        self._routes[position] = _Route(self._slots[position], node)
        self.calls[position] = node.pair.calls.send
        self.bulk[position] = node.pair.bulk.send
        self.writes[position] = node.pair.writes.send_write

    def _node(self, address: Address) -> _Node:
        """Returns the node at an address; adds it if it is new."""
        node = self._nodes.get(address)
        if node is None:
            make = partial(self._servers.make_connection, address)
            node = self._nodes[address] = _Node(address, self._settings.pair(make, partial(self._handler, address)))
        return node

    # Redirects

    def _handler(self, address: Address, name: str) -> Rejected:
        return partial(self._rejected, _Line(address, name))

    def _rejected(self, line: _Line, command: bytes, reply: "asyncio.Future[Any]", error: RedisError) -> bool:
        """Sends a command to the node that can execute it; returns False if its future must fail."""
        if isinstance(error, AskError):  # or its subclass MovedError
            return self._redirect(line, command, reply, error)
        if isinstance(error, TryAgainError):
            history = self._history(reply)
            if self._loop.time() >= history.deadline:
                return False
            history.redirects = 0  # while the keys move, both nodes may redirect the command again and again
            self._loop.call_later(_TRY_AGAIN_PAUSE, self._resend, line, command, reply)
            return True
        if isinstance(error, ClusterDownError):  # or its subclass MasterDownError
            self._refresh_soon()
        return False

    def _redirect(self, line: _Line, command: bytes, reply: "asyncio.Future[Any]", error: AskError) -> bool:
        history = self._history(reply)
        history.redirects += 1
        if history.redirects > MOST_REDIRECTS:
            return False
        target = line._replace(address=address_of(error.host, error.port, line.address[0]))
        if not isinstance(error, MovedError):
            self._connection(target).resend(command, reply, asking=True)
            return True
        self._refresh_soon()
        if target == line:  # another server has the address now, or the node has not taken its slots over yet
            self._replace(line.address)
            self._loop.call_later(_LOOP_PAUSE, self._resend, target, command, reply)
            return True
        for position, slot in self._slots.items():
            if slot == error.slot_id:
                self._assign(position, target.address)
        self._connection(target).resend(command, reply)
        return True

    def _history(self, reply: "asyncio.Future[Any]") -> _History:
        history = self._histories.get(reply)
        if history is None:
            history = self._histories[reply] = _History(self._loop.time() + self._settings.timeout)
        return history

    def _resend(self, line: _Line, command: bytes, reply: "asyncio.Future[Any]") -> None:
        if not reply.done():
            self._connection(line).resend(command, reply)

    def _connection(self, line: _Line) -> SharedConnection:
        pair = self._node(line.address).pair
        return {"calls": pair.calls, "bulk": pair.bulk}.get(line.name, pair.writes)

    def _replace(self, address: Address) -> None:
        """Makes new connections to the same address."""
        old = self._nodes.pop(address, None)
        if old is not None:
            self._retired.add(old.pair)
        for position, route in list(self._routes.items()):
            if route.node.address == address:
                self._assign(position, address)

    # Supervision

    async def probe(self, probe: Probe) -> None:
        """Probes all nodes with partitions. Raises StoreUnavailableError if none of them is available."""
        partitions = {route.node: position for position, route in self._routes.items() if position != LAYOUT}
        probes = {asyncio.create_task(node.pair.probe(probe, number)): node for node, number in partitions.items()}
        try:
            done = await self._ended(probes)
        finally:
            for task in probes:
                task.cancel()
        failures = {probes[task]: error for task in done if (error := task.exception()) is not None}
        up = {probes[task] for task in done} - failures.keys()
        for node in partitions:
            node.is_up = node in up
        self.is_complete = len(up) == len(partitions)
        for error in failures.values():
            if not up or not isinstance(error, StoreUnavailableError):  # the latter is a bug
                raise error
        if not self.is_complete:
            with suppress(StoreUnavailableError):
                await self.refresh()
        self._report(failures)

    async def _ended(self, probes: "Iterable[asyncio.Task[None]]") -> "set[asyncio.Task[None]]":
        """Waits for probes, but not for nodes that are slower than others; returns the probes that have ended."""
        done, waiting = await asyncio.wait(probes, timeout=_PROBE_SECONDS)
        while waiting and all(task.exception() for task in done):  # until one passes, or all fail by the store timeout
            self._refresh_soon()
            ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= ended
        return done

    def _report(self, failures: dict[_Node, BaseException]) -> None:
        """Logs how many partitions are unavailable, once for each reason."""
        reasons = frozenset(map(why, failures.values()))
        if reasons - self._reasons:
            lost = sum(route.node in failures for position, route in self._routes.items() if position != LAYOUT)
            logger.warning(
                "some partitions of the store are unavailable",
                extra={"reason": ", ".join(sorted(reasons)), "partitions": lost},
            )
        elif self._reasons and not reasons and self.is_complete:
            logger.info("all partitions of the store are available")
        if reasons or self.is_complete:
            self._reasons = reasons

    async def renew(self, probe: Probe) -> None:
        """Asks for the map again, from the seeds too, and probes the nodes in it."""
        await self.refresh()
        await self.probe(probe)

    def distrust(self) -> None:
        """Closes all connections."""
        for node in self._nodes.values():
            node.pair.reset()

    async def close(self) -> None:
        """Closes the connections."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        await asyncio.gather(
            *(node.pair.close() for node in self._nodes.values()), self._retired.close(), return_exceptions=True
        )


def _not_open(*_command: bytes | str | int) -> "asyncio.Future[Any]":
    raise AssertionError("the store is not open")
