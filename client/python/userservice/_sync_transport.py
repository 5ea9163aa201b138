"""The blocking version of `_transport.py`, over grpcio's blocking stubs. Calls run in the thread of the caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from inspect import iscoroutine
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeAlias, cast

import grpc

from userservice._forks import forks
from userservice._headers import Headers
from userservice._watchdog import Alarm
from userservice.errors import ManagerClosedError
from userservice.imports import ImportRow, ImportStatus

TokenSource = str | Callable[[], str]
"""A token, or a callable that returns the token. Several threads may call the callable at the same time."""

TRANSPORT_OPTIONS: tuple[tuple[str, Any], ...] = (
    # With this option, streams are read in the thread of the caller. Without it, gRPC starts a thread for each channel
    # that has streams.
    ("SingleThreadedUnaryStream", 1),
)
"""gRPC channel options that only this version needs."""

_STATES: dict[int, grpc.ChannelConnectivity] = {state.value[0]: state for state in grpc.ChannelConnectivity}

RowSource = Iterable[ImportRow]
"""The rows of an import."""

Progress = Callable[[ImportStatus], object]
"""A callback that receives the state of an import."""

Waiting: TypeAlias = None
"""The result of a method that waits."""

sleep = time.sleep


def opening() -> AbstractContextManager[object]:
    """Returns a lock that is held while channels are opened or closed."""
    return forks.starting


def ask_token(source: TokenSource, timeout: float) -> object:  # noqa: ARG001 - nothing can interrupt the callable
    """Returns the token of a callable.

    Raises:
        TypeError: If the callable is asynchronous.
    """
    token: object = source() if callable(source) else source
    if iscoroutine(token):
        token.close()  # otherwise Python warns that the coroutine was never awaited
        raise TypeError("a blocking manager needs a token callable that returns a string, not an async callable")
    return token


def current_owner() -> object:
    """Returns the owner of channels that are opened now: None, because all threads may use them.

    Raises:
        ManagerUnusableError: If the process was forked while gRPC was in use.
    """
    forks.refuse()
    return None


def report(callback: Progress, status: ImportStatus) -> None:
    """Calls a callback."""
    callback(status)


class Rows:
    """Reads the rows of an import."""

    def __init__(self, rows: RowSource) -> None:
        self._rows = iter(rows)

    def take(self, count: int) -> list[ImportRow]:
        """Returns the next rows: `count` rows, or fewer at the end."""
        return list(islice(self._rows, count))


class RawStream:
    """A running server stream of encoded messages. A stream that is not read to its end must be cancelled.

    Args:
        channel: The channel of the RPC.
        path: The path of the RPC.
        encoded: The encoded request.
        metadata: The headers of the request.
    """

    _call: Any

    def __init__(self, channel: RawChannel, path: str, encoded: bytes, metadata: Headers) -> None:
        def call() -> Any:
            stub: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.grpc_channel.unary_stream(path)
            return stub(encoded, metadata=metadata)

        self._start(channel, call)

    def _start(self, channel: RawChannel, call: Callable[[], Any]) -> None:
        self._channel = channel
        try:
            self._call = call()
        except ValueError:  # the channel is closed
            channel.raise_if_closed()
            raise
        self._alarm = Alarm(self._call.cancel)

    def read(self, timeout: float) -> bytes | None:
        """Returns the next message, or None after the last message.

        Raises:
            AioRpcError: If the RPC failed.
            TimeoutError: If no message arrived within this many seconds.
            ManagerClosedError: If the channel was closed.
        """
        deadline = time.monotonic() + timeout
        self._alarm.start(deadline, timeout)
        try:
            return next(self._call, None)
        except grpc.RpcError as error:
            failure = _without_call(error)
        finally:
            self._alarm.pause()
        self._channel.raise_if_closed()
        # The alarm of an earlier read may ring just after that read has succeeded, and cancel the stream. In this case,
        # the deadline of this read has not passed, and the failure is raised, so that the caller retries.
        if self._alarm.rang and time.monotonic() >= deadline:
            raise TimeoutError
        try:
            raise failure
        finally:
            del failure  # its traceback refers to this frame, which would be a reference cycle

    def cancel(self) -> None:
        """Ends the RPC immediately."""
        self._alarm.stop()
        # In a forked child, gRPC must not be called, because the connection belongs to the parent.
        if not forks.broken:
            self._call.cancel()


class RawExchange(RawStream):
    """A running RPC with a stream of requests and a stream of responses.

    Args:
        channel: The channel of the RPC.
        path: The path of the RPC.
        metadata: The headers of the request.
    """

    def __init__(self, channel: RawChannel, path: str, metadata: Headers) -> None:
        # A thread of gRPC reads the requests from this queue; None ends the thread.
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        requests = iter(self._requests.get, None)

        def call() -> Any:
            stub: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.grpc_channel.stream_stream(path)
            return stub(requests, metadata=metadata)

        self._start(channel, call)

    def write(self, encoded: bytes, timeout: float) -> None:  # noqa: ARG002 - as in the asyncio version
        """Sends a message. If the RPC has ended, `read` raises its error."""
        self._requests.put(encoded)

    def done_writing(self) -> None:
        """Ends the stream of requests."""
        self._requests.put(None)

    def cancel(self) -> None:
        """Ends the RPC immediately."""
        super().cancel()
        self._requests.put(None)


class RawChannel:
    """A gRPC channel. Messages are bytes.

    Args:
        target: The address in gRPC's form.
        credentials: Credentials of an encrypted channel; None for plain text.
        options: gRPC channel options.
    """

    def __init__(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]]
    ) -> None:
        if credentials is None:
            self.grpc_channel = grpc.insecure_channel(target, options=options)
        else:
            self.grpc_channel = grpc.secure_channel(target, credentials, options=options)
        self._closed = False
        forks.add(self)

    def state(self) -> grpc.ChannelConnectivity:
        """Returns the state of the connection. Starts to connect if there is no connection."""
        # The public method Channel.subscribe starts a thread for each channel, which wakes up five times per second.
        inner = cast("Any", self.grpc_channel)._channel  # noqa: SLF001
        return _STATES[inner.check_connectivity_state(True)]  # noqa: FBT003

    def unary(self, path: str, encoded: bytes, timeout: float, metadata: Headers) -> bytes:
        """Makes a unary call without retries.

        Raises:
            AioRpcError: If the call failed.
            ManagerClosedError: If the channel was closed during the call.
        """
        try:
            stub: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.grpc_channel.unary_unary(path)
            return stub(encoded, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            failure = _without_call(error)
        except ValueError:  # the channel is closed
            self.raise_if_closed()
            raise
        self.raise_if_closed()
        try:
            raise failure
        finally:
            del failure  # its traceback refers to this frame, which would be a reference cycle

    def stream(self, path: str, encoded: bytes, metadata: Headers) -> RawStream:
        """Starts a server stream."""
        return RawStream(self, path, encoded, metadata)

    def exchange(self, path: str, metadata: Headers) -> RawExchange:
        """Starts an RPC with a stream of requests and a stream of responses."""
        return RawExchange(self, path, metadata)

    def raise_if_closed(self) -> None:
        """Raises ManagerClosedError if the channel was closed."""
        if self._closed:
            raise ManagerClosedError("the manager was closed during the call") from None

    def close(self) -> None:
        """Closes the connection. Running calls end with ManagerClosedError."""
        self._closed = True
        # In a forked child, gRPC must not be called, because the connection belongs to the parent.
        if not forks.broken:
            self.grpc_channel.close()
        forks.channels.discard(self)


def _without_call(error: Any) -> grpc.aio.AioRpcError:
    """Returns the failure in the form of the asyncio stubs.

    In blocking streams of grpcio, the error and the call are the same object. The traceback of the error contains
    frames that refer to the call, which is a reference cycle.
    """
    error.__traceback__ = None
    trailers = grpc.aio.Metadata(*(error.trailing_metadata() or ()))
    return grpc.aio.AioRpcError(error.code(), grpc.aio.Metadata(), trailers, error.details() or "")
