"""A network on loopback that can be divided: servers and clients are on one side or on the other."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from harness.both_ways import until_one_ends
from harness.ports import free_port

NODES = "127.0.0.1"  # the address of all nodes for other nodes; each node connects from an address of its own
CLIENTS = ("127.0.0.2", "127.0.0.3")
"""Addresses at which clients connect to the nodes; each is a place of its own in the network."""


@dataclass(eq=False)
class _Link:
    """A connection between two places.

    Attributes:
        places: the places at both ends.
        is_cut: whether the ends are or were on different sides; nothing is delivered any more.
    """

    places: tuple[str, str]
    is_cut: bool = False
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Network:
    """Forwards ports between places.

    While the network is divided, data for the other side are discarded without an error, as if packets were lost. When
    the division ends, the connections between the sides are aborted.
    """

    def __init__(self) -> None:
        self._side: frozenset[str] = frozenset()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def listen(self, place: str, target: int) -> int:
        """Returns a new port that leads to the port ``target`` of a place."""
        port = free_port()
        listeners = [socket.create_server((host, port)) for host in (NODES, *CLIENTS)]
        asyncio.run_coroutine_threadsafe(self._listen(listeners, place, target), self._loop).result(10)
        return port

    async def _listen(self, listeners: Sequence[socket.socket], place: str, target: int) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            self._tasks.add(task)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._join(place, target, reader, writer)
            self._tasks.discard(task)

        self._servers += [await asyncio.start_server(accept, sock=listener) for listener in listeners]

    async def _join(self, place: str, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source, destination = writer.get_extra_info("peername")[0], writer.get_extra_info("sockname")[0]
        link = _Link((source if destination == NODES else destination, place), writers=[writer])
        link.is_cut = self._divides(link)
        self._links.add(link)
        try:
            if link.is_cut:
                await _forward(link, reader, writer)
                return
            far_reader, far_writer = await asyncio.open_connection(NODES, target)
            link.writers.append(far_writer)
            await until_one_ends(_forward(link, reader, far_writer), _forward(link, far_reader, writer))
        finally:
            link.abort()
            self._links.discard(link)

    def _divides(self, link: _Link) -> bool:
        first, second = (place in self._side for place in link.places)
        return first is not second

    def divide(self, side: Iterable[str]) -> None:
        """Cuts the connections between these places and all others."""
        self._loop.call_soon_threadsafe(self._divide, frozenset(side))

    def join(self) -> None:
        """Ends the division."""
        self.divide(())

    def _divide(self, side: frozenset[str]) -> None:
        self._side = side
        for link in self._links:
            if not link.is_cut:
                link.is_cut = self._divides(link)
            elif not self._divides(link):
                link.abort()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets in the next turn of the event loop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _forward(link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        if not link.is_cut:
            writer.write(data)
            await writer.drain()
