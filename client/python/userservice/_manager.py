"""The base class of the managers: constructor, `close` and context manager."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from userservice._connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, Connection


class Manager:
    """A client of one service. It connects at its first call.

    Create one manager and keep it, because opening a connection is expensive. End it with `close`, or use it as a
    context manager.

    A manager belongs to the event loop of its first call. All tasks of this loop may share it.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        connections: int = 1,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
        channel_options: Sequence[tuple[str, Any]] = (),
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        """Creates a manager. Nothing is sent before the first call.

        Args:
            address: `host:port`, `http://host:port`, `https://host:port` (encrypted), `dns:///host:port` (all
                addresses of the name), `ipv4:address:port`, `ipv6:[address]:port`, `unix:/path` or
                `unix-abstract:name`. Several addresses are separated by commas; calls are distributed over
                them.
            connections: The number of connections to each address, 1 to 100. Calls are distributed over them; a stream
                uses one. With several connections, one busy process uses several workers of a service.
            timeout: Seconds that each call may take, including retries, unless the call has its own timeout; for
                `list_chunked`, seconds to the next chunk.
            credentials: Credentials for TLS. Without them, an `https://` address uses the system's root certificates.
            channel_options: gRPC channel options; they override the options of the client.
            metadata: Pairs of key (lower case) and value to send with every call. Values are printable ASCII, or bytes
                for keys that end in `-bin`.

        Raises:
            ValueError: If the address, the timeout, the number of connections or the metadata is invalid, or
                credentials are given for `http://`.
            ManagerUnusableError: If gevent or eventlet has patched the process.
        """
        self._connection = Connection(
            address,
            connections=connections,
            timeout=timeout,
            credentials=credentials,
            channel_options=channel_options,
            metadata=metadata,
        )

    async def __aenter__(self) -> Self:
        self._connection.connect()  # asyncio only
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Running calls end with ManagerClosedError. May be called twice."""
        await self._connection.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._connection.address}>"
