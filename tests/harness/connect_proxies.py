"""An HTTP CONNECT proxy for clients whose environment variables name it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

Behaviour = Literal["work", "refuse", "hang", "babble"]


class ConnectProxy:
    """Forwards each CONNECT to one port of 127.0.0.1, regardless of the requested name, or misbehaves."""

    def __init__(self, behaviour: Behaviour, target: int = 0) -> None:
        self._behaviour = behaviour
        self._target = target
        self.requests: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://ann:s3cret@127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head.decode().partition("\r\n")[0])
            await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._behaviour == "hang":
            await reader.read()
        elif self._behaviour == "refuse":
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        elif self._behaviour == "babble":
            writer.write(b"220 mail.example ESMTP\r\n")
        else:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def proxy(behaviour: Behaviour, target: int = 0) -> AsyncIterator[ConnectProxy]:
    """Runs a proxy in this event loop."""
    running = ConnectProxy(behaviour, target)
    server = await asyncio.start_server(running.handle, "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
