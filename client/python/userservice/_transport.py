"""The part of the clients that differs between asyncio and blocking code: channels, streams, and waiting.

This is the asyncio version. `_sync_transport.py` is the blocking version with the same names. The code that uses these
two modules is written once, for asyncio; `tools/generate_sync.py` generates the blocking code from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import isawaitable
from itertools import islice
from typing import Any, TypeAlias

import grpc

from userservice._headers import Headers
from userservice.errors import DeadlineExceededError, ManagerClosedError, ManagerUnusableError
from userservice.imports import ImportRow, ImportStatus

TokenSource = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""A token, or a callable or async callable that returns the token."""

TRANSPORT_OPTIONS: tuple[tuple[str, Any], ...] = ()
"""gRPC channel options that only this version needs."""

RowSource = Iterable[ImportRow] | AsyncIterable[ImportRow]
"""The rows of an import."""

Progress = Callable[[ImportStatus], object]
"""A callback or async callback that receives the state of an import."""

Waiting: TypeAlias = Awaitable[None]
"""The result of a method that waits."""

sleep = asyncio.sleep


def opening() -> AbstractContextManager[object]:
    """Returns a context that does nothing: code that opens channels contains no await, so no task can interrupt it."""
    return nullcontext()


async def ask_token(source: TokenSource, timeout: float) -> object:  # noqa: ASYNC109 - as in the blocking version
    """Returns the token of a callable or async callable.

    Raises:
        DeadlineExceededError: If an async callable did not return within this many seconds.
    """
    token: object = source() if callable(source) else source
    if not isawaitable(token):
        return token
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await token
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineExceededError("the callable token did not return before the deadline of the call") from None


def current_owner() -> object:
    """Returns the owner of channels that are opened now: the running event loop.

    Raises:
        ManagerUnusableError: If no event loop is running.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ManagerUnusableError(
            "this manager needs a running asyncio event loop; blocking programs use SyncUserManager or "
            "SyncSessionManager"
        ) from None


async def report(callback: Progress, status: ImportStatus) -> None:
    """Calls a callback, and awaits its result if it is awaitable."""
    result = callback(status)
    if isawaitable(result):
        await result


class Rows:
    """Reads the rows of an import."""

    def __init__(self, rows: RowSource) -> None:
        self._async_rows = aiter(rows) if isinstance(rows, AsyncIterable) else None
        self._rows: Iterator[ImportRow] = iter(()) if isinstance(rows, AsyncIterable) else iter(rows)

    async def take(self, count: int) -> list[ImportRow]:
        """Returns the next rows: `count` rows, or fewer at the end."""
        if self._async_rows is None:
            return list(islice(self._rows, count))
        taken: list[ImportRow] = []
        while len(taken) < count:
            try:
                taken.append(await anext(self._async_rows))
            except StopAsyncIteration:
                break
        return taken


class RawStream:
    """A running server stream of encoded messages. A stream that is not read to its end must be cancelled.

    Args:
        channel: The channel of the RPC.
        path: The path of the RPC.
        encoded: The encoded request.
        metadata: The headers of the request.
    """

    _call: grpc.aio.UnaryStreamCall[bytes, bytes] | grpc.aio.StreamStreamCall[bytes, bytes]

    def __init__(self, channel: RawChannel, path: str, encoded: bytes, metadata: Headers) -> None:
        stub: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.grpc_channel.unary_stream(path)
        self._start(channel, stub(encoded, metadata=metadata))

    def _start(
        self,
        channel: RawChannel,
        call: grpc.aio.UnaryStreamCall[bytes, bytes] | grpc.aio.StreamStreamCall[bytes, bytes],
    ) -> None:
        self._channel = channel
        self._call = call
        channel.calls.add(self._call)
        self._call.add_done_callback(channel.calls.discard)

    async def read(self, timeout: float) -> bytes | None:  # noqa: ASYNC109 - the blocking version needs it
        """Returns the next message, or None after the last message.

        Raises:
            AioRpcError: If the RPC failed.
            TimeoutError: If no message arrived within this many seconds.
            ManagerClosedError: If the channel was closed.
        """
        try:
            async with asyncio.timeout(timeout):
                message = await self._call.read()
        except asyncio.CancelledError:
            self._channel.raise_if_closed()
            raise
        return message if isinstance(message, bytes) else None  # grpc.aio.EOF

    def cancel(self) -> None:
        """Ends the RPC immediately."""
        self._call.cancel()


class RawExchange(RawStream):
    """A running RPC with a stream of requests and a stream of responses.

    Args:
        channel: The channel of the RPC.
        path: The path of the RPC.
        metadata: The headers of the request.
    """

    _call: grpc.aio.StreamStreamCall[bytes, bytes]

    def __init__(self, channel: RawChannel, path: str, metadata: Headers) -> None:
        stub: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.grpc_channel.stream_stream(path)
        self._start(channel, stub(metadata=metadata))

    async def write(self, encoded: bytes, timeout: float) -> None:  # noqa: ASYNC109 - as in `read`
        """Sends a message. If the RPC has ended, `read` raises its error.

        Raises:
            AioRpcError: If the RPC failed.
            TimeoutError: If the service accepted no more bytes within this many seconds.
            ManagerClosedError: If the channel was closed.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._call.write(encoded)
        except asyncio.InvalidStateError:
            return  # the RPC has ended
        except asyncio.CancelledError:
            self._channel.raise_if_closed()
            raise

    async def done_writing(self) -> None:
        """Ends the stream of requests."""
        await self._call.done_writing()


class RawChannel:
    """A gRPC channel. Messages are bytes, because grpc.aio logs an exception of a deserialiser and returns None.

    Args:
        target: The address in gRPC's form.
        credentials: Credentials of an encrypted channel; None for plain text.
        options: gRPC channel options.
    """

    def __init__(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]]
    ) -> None:
        if credentials is None:
            self.grpc_channel = grpc.aio.insecure_channel(target, options=options)
        else:
            self.grpc_channel = grpc.aio.secure_channel(target, credentials, options=options)
        self.calls: set[grpc.aio.UnaryStreamCall[bytes, bytes] | grpc.aio.StreamStreamCall[bytes, bytes]] = set()
        self._closed = False

    def state(self) -> grpc.ChannelConnectivity:
        """Returns the state of the connection. Starts to connect if there is no connection."""
        return self.grpc_channel.get_state(try_to_connect=True)

    async def unary(self, path: str, encoded: bytes, timeout: float, metadata: Headers) -> bytes:  # noqa: ASYNC109
        """Makes a unary call without retries.

        Raises:
            AioRpcError: If the call failed.
            ManagerClosedError: If the channel was closed during the call.
        """
        stub: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.grpc_channel.unary_unary(path)
        try:
            return await stub(encoded, timeout=timeout, metadata=metadata)
        except asyncio.CancelledError:
            self.raise_if_closed()
            raise

    def stream(self, path: str, encoded: bytes, metadata: Headers) -> RawStream:
        """Starts a server stream."""
        return RawStream(self, path, encoded, metadata)

    def exchange(self, path: str, metadata: Headers) -> RawExchange:
        """Starts an RPC with a stream of requests and a stream of responses."""
        return RawExchange(self, path, metadata)

    def raise_if_closed(self) -> None:
        """Raises ManagerClosedError if a CancelledError was caused by `close`.

        Closing a channel cancels its calls. grpc.aio then raises CancelledError in the awaiting task, although the task
        was not cancelled.
        """
        task = asyncio.current_task()
        if self._closed and task is not None and not task.cancelling():
            raise ManagerClosedError("the manager was closed during the call") from None

    async def close(self) -> None:
        """Closes the connection. Running calls end with ManagerClosedError."""
        self._closed = True
        # In some versions of grpc.aio, closing the channel does not end streams that no task is reading.
        for call in tuple(self.calls):
            call.cancel()
        await self.grpc_channel.close()
