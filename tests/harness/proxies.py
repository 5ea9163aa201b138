"""A TCP proxy between two real programs that delays, loses and cuts on demand."""

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from harness.both_ways import until_one_ends

Rule = Callable[[bytes], bool]


def never(_: bytes) -> bool:
    return False


class Proxy:
    """Forwards a port of 127.0.0.1 to a TCP port or a Unix socket. Runs in a thread of its own.

    - `delay`: every reply, and all replies after it, are delayed by a random time up to this number of seconds.
    - `latency`: every reply takes this time, independently of earlier replies; it can be changed at any time.
    - `lose_reply_after`: if this rule matches a request, the request is delivered, its reply is discarded and the
      connection is closed. The server has done its work, but the client does not get the result.
    - `hold_before`, `hold_after`: if one of these rules matches a request, the request is not delivered, or is
      delivered but its reply is not. `held` is then set, and the connection stays like this until its client closes it.
    - `double_reply`: if this rule matches a reply, the client receives the reply twice.
    - `black_hole`: while it is set, nothing is delivered in either direction, without an error. Data sent meanwhile are
      delivered afterwards, or never if `swallow` is set.
    - `target`: a change applies to new connections, as if a name resolved to another server.
    """

    def __init__(self, target: int | Path, *, delay: float = 0, seed: int = 0) -> None:
        self.target = target
        self._random = random.Random(seed)  # noqa: S311 - a seeded stream of faults, no secret
        self.delay = delay
        self.latency = 0.0
        self.lose_reply_after: Rule = never
        self.hold_before: Rule = never
        self.hold_after: Rule = never
        self.held = threading.Event()
        self.double_reply: Rule = never
        self.black_hole = False
        self.swallow = False
        self.lost = 0
        self.doubled = 0
        self.accepted = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def next_target(self) -> int | Path:
        """Returns the port or socket that the next connection leads to."""
        return self.target

    def chance(self, probability: float, matching: bytes) -> Rule:
        """Returns a rule that matches requests with the given bytes, with the given probability."""
        return lambda sent: matching in sent and self._random.random() < probability

    @staticmethod
    def once(matching: bytes) -> Rule:
        """Returns a rule that matches the first request with the given bytes."""
        answers = iter([True])
        return lambda sent: matching in sent and next(answers, False)

    def cut_all(self) -> None:
        """Closes every connection, also during a transfer. New connections are accepted."""

        def cut() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(cut)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener)
        async with server:
            await self._stopping.wait()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            for writer in self._writers:
                writer.transport.abort()  # close would wait for the delivery of data that the peer no longer reads
        for _ in range(3):  # turns in which transports part with their sockets
            await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        self.accepted += 1
        try:
            await self._join(reader, writer)
        except OSError:
            pass  # the target is unavailable, or one side closed its connection; the other side is closed below
        except asyncio.CancelledError:
            pass  # the proxy is closed; raised on, asyncio would log it as an error
        finally:
            self._connections.discard(task)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self.next_target()
        if isinstance(target, Path):
            far_reader, far_writer = await asyncio.open_unix_connection(target)
        else:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        self._writers |= {writer, far_writer}
        losing, holding = asyncio.Event(), asyncio.Event()
        try:
            await until_one_ends(
                self._forward_requests(reader, far_writer, losing, holding),
                self._forward_replies(far_reader, writer, losing, holding),
            )
        finally:
            far_writer.close()
            if not self._stopping.is_set():
                self._writers -= {writer, far_writer}

    async def _forward_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event, holding: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            if self.hold_before(data):
                self.held.set()
                while await reader.read(65536):
                    pass
                return
            if self.hold_after(data):
                holding.set()
            if self.lose_reply_after(data):
                losing.set()
            if await self._is_swallowed():
                continue
            writer.write(data)
            await writer.drain()

    async def _is_swallowed(self) -> bool:
        was_held = self.black_hole
        while self.black_hole:  # noqa: ASYNC110 - set from another thread, by a plain assignment
            await asyncio.sleep(0.01)
        return was_held and self.swallow

    async def _forward_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event, holding: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            if holding.is_set():
                self.held.set()
                continue
            if self.delay:
                await asyncio.sleep(self._random.uniform(0, self.delay))
            if losing.is_set():
                self.lost += 1
                return
            if await self._is_swallowed():
                continue
            if self.double_reply(data):
                self.doubled += 1
                data *= 2
            if self.latency:
                self._loop.call_later(self.latency, writer.write, data)
                continue
            writer.write(data)
            await writer.drain()

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
