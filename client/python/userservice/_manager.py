"""The base class of the managers: constructor, `close` and context manager."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from userservice._connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, Connection
from userservice._environment import EnvironmentOptions, settings_from_environment
from userservice._tls import PemSource
from userservice._token import hidden
from userservice._transport import TokenSource
from userservice.hooks import OnCall


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
        token: TokenSource | None = None,
        ca: PemSource | None = None,
        cert: PemSource | None = None,
        key: PemSource | None = None,
        allow_insecure_token: bool = False,
        on_call: OnCall | None = None,
        retries: int | None = None,
    ) -> None:
        """Creates a manager. Nothing is sent before the first call.

        Args:
            address: `host:port`, `http://host:port`, `https://host:port` (encrypted), `dns:///host:port` (all addresses
                of the name), `ipv4:address:port`, `ipv6:[address]:port`, `unix:/path` or `unix-abstract:name`. Several
                addresses are separated by commas; calls are distributed over all addresses.
            connections: The number of connections to each address, 1 to 100. Calls are distributed over all
                connections; a stream uses one connection. With several connections, one busy process can use several
                workers of a service.
            timeout: The default timeout of a call in seconds, including retries. For `list_chunked`, it is the timeout
                of each chunk.
            credentials: gRPC channel credentials for TLS; use `ca`, `cert` and `key` instead if possible.
            channel_options: gRPC channel options; they override the options of the client.
            metadata: Pairs of key (lower case) and value to send with every call. Values are printable ASCII, or bytes
                for keys that end in `-bin`.
            token: A token that is sent with each call as `authorization: Bearer …`: a string, or a callable or async
                callable that returns the token. A callable is called for each attempt of a call, and should cache its
                token. If the service rejects the token of a callable, the call is repeated once with a new token.
            ca: Certificates of trusted authorities in PEM form, as a path or bytes. `ca` and `cert` enable TLS for an
                address without `http://` or `https://`. Without `ca`, gRPC's own root certificates are used. Files are
                checked at most once per second; after a change, new calls use new connections with the new content.
            cert: The certificate chain of the client in PEM form, as a path or bytes; needs `key`.
            key: The private key of the client in PEM form, as a path or bytes; needs `cert`.
            allow_insecure_token: Allow sending the token without TLS to other machines. Anyone on the network can then
                read and use the token.
            on_call: A function that is called with a `CallAttempt` before each attempt of a call. It can add headers,
                and can return a function that is called at the end of the attempt with its status code
                (`grpc.StatusCode`) and its duration in seconds. Both must be fast and must not raise.
                `userservice.opentelemetry.trace_calls()` returns such a function, which creates spans.
            retries: The maximum number of retries of a call; for `list_chunked`, of each chunk. 0: every call is sent
                at most once, except a `get` whose shared call failed, which is then sent alone (`share_reads`). None:
                any number before the deadline.

        Raises:
            TypeError: If the token or a TLS setting has a wrong type.
            ValueError: If an argument is invalid, TLS is configured for `http://`, or a token would be sent without TLS
                to an address that is not loopback.
            ManagerUnusableError: If gevent or eventlet has patched the process.
        """
        token = hidden(token)  # so that a report of an error with local variables does not show the token
        self._connection = Connection(
            address,
            connections=connections,
            timeout=timeout,
            credentials=credentials,
            channel_options=channel_options,
            metadata=metadata,
            token=token,
            ca=ca,
            cert=cert,
            key=key,
            allow_insecure_token=allow_insecure_token,
            on_call=on_call,
            retries=retries,
        )

    @classmethod
    def from_env(cls, **options: Unpack[EnvironmentOptions]) -> Self:
        """Creates a manager with the settings in environment variables.

        The variables are USERSERVICE_ADDRESS, USERSERVICE_TOKEN or USERSERVICE_TOKEN_FILE (a path; the file is read for
        each attempt of a call), USERSERVICE_CA, USERSERVICE_CERT and USERSERVICE_KEY (paths). Empty variables are
        treated as absent.

        Args:
            **options: The other options of the manager.

        Raises:
            ValueError: If a setting is invalid, or both variables of the token are set.
        """
        arguments: dict[str, Any] = {**settings_from_environment(), **options}
        return cls(**arguments)

    fromEnv = from_env  # noqa: N815 - the name in TypeScript

    def with_options(
        self,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        retries: int | None = None,
        token: TokenSource | None = None,
    ) -> Self:
        """Returns a manager that has other options and shares the connections of this manager.

        The new manager costs little, so it may be created for a single call, for example to send metadata with this
        call only. The header `x-request-id` sets the call id in the log of the service.

            await user_manager.with_options(metadata=[("x-request-id", "checkout-7")]).get("user123")

        `close` of the new manager has no effect. Calls of the new manager end when this manager is closed.

        Args:
            timeout: The default timeout of a call in seconds; see the class. None keeps the timeout.
            metadata: Pairs of key and value to send in addition to the metadata of this manager. They replace the pairs
                of this manager that have the same keys.
            retries: The maximum number of retries of a call; see the class. None keeps the number.
            token: The token, or a callable or async callable that returns it; see the class. None keeps the token.

        Raises:
            TypeError: If the token has a wrong type.
            ValueError: If an option is invalid, or a token would be sent without TLS to an address that is not
                loopback.
        """
        token = hidden(token)
        twin = copy(self)
        connection = self._connection.with_options(timeout=timeout, retries=retries, metadata=metadata, token=token)
        twin._use(connection)  # noqa: SLF001 - the same class
        return twin

    def _use(self, connection: Connection) -> None:
        """Replaces the connection."""
        self._connection = connection

    withOptions = with_options  # noqa: N815 - the name in TypeScript

    async def __aenter__(self) -> Self:
        self._connection.connect()  # asyncio only
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Running calls end with ManagerClosedError. May be called twice.

        Has no effect on a manager that `with_options` returned: close the manager that made the connection.
        """
        await self._connection.close()

    def __repr__(self) -> str:
        connection = getattr(self, "_connection", None)  # absent while the constructor runs
        return f"<{type(self).__name__} {connection.address if connection else ''}>"
