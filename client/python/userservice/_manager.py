"""What the managers have in common: their construction and their lifetime."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from userservice._connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, Connection


class Manager:
    """A client of one service. Connects at its first call, or at `async with`; `close` ends it.

    It belongs to the event loop of its first call, and any number of tasks there may share it. Make one and keep it:
    the connection is what is costly.
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
        """Prepares a manager; nothing is sent yet.

        Args:
            address: `host:port`, `http://host:port`, `https://host:port` (encrypted), `dns:///host:port` (all
                addresses of the name), `ipv4:address:port`, `ipv6:[address]:port`, `unix:/path` or
                `unix-abstract:name`. Several addresses are separated by commas; calls are spread over them.
            connections: How many connections the manager opens to each address, 1 to 100. Calls are spread over them;
                a stream stays on one. With several, one busy process uses several workers of a service.
            timeout: Seconds that each call may take, retries included, unless it says otherwise; for `list_chunked`,
                seconds to the next chunk.
            credentials: How to encrypt and authenticate the connection; the system's root certificates if absent.
            channel_options: gRPC channel options, which override the ones that the client chooses.
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
        self._connection.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Calls that are running end with ManagerClosedError. Safe to call twice."""
        await self._connection.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._connection.address}>"
