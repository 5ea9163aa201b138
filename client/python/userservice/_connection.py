"""The connection of a manager to the service: its channels, made at the first call, and calls with their retries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from userservice._address import parse_address
from userservice._channels import Channel, Channels
from userservice._forks import forks
from userservice._headers import check_headers
from userservice._methods import Method
from userservice._monkey import reject_monkey_patching
from userservice._retry import Attempts, check_timeout
from userservice._status import error_from_call, with_proxy
from userservice.errors import (
    DeadlineExceededError,
    InternalError,
    ManagerClosedError,
    ManagerUnusableError,
    UnavailableError,
)

RequestT = TypeVar("RequestT", bound="Message")
ResponseT = TypeVar("ResponseT", bound="Message")

DEFAULT_ADDRESS = "localhost:50051"

MOST_CONNECTIONS = 100
"""Limit of `connections`, which protects the service from a number in the wrong place."""

DEFAULT_TIMEOUT = 10.0
"""Seconds that a call may take, retries included; for a stream, seconds to the next chunk."""

_STATUS_SECONDS = 0.5
_KIB = 1024

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # gRPC's own retries know neither the reason of a failure nor request_ids, and would multiply with the ones here.
    ("grpc.enable_retries", 0),
    # A full batch: 1000 users of 64 KiB of metadata and less than 4 KiB for the rest. gRPC's default is 4 MiB.
    ("grpc.max_receive_message_length", 1000 * (64 + 4) * _KIB),
    # Error details travel in trailing metadata, twice. The service keeps below gRPC's default of 8 KiB; proxies on the
    # way may add to it.
    ("grpc.max_metadata_size", 512 * _KIB),
    # Left to itself gRPC widens the flow-control window as fast as the server can send: a slow reader of a stream
    # was found to have 4 to 6 MB waiting in the client. A fixed window of 1 MiB, the size of the largest chunk, holds
    # it at 1 to 2 MB, and was no slower on a local link. It allows 1 MiB a round trip, 10 MB/s over 100 ms.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _KIB * _KIB),
    # Every manager has connections of its own; see `Channels`.
    ("grpc.use_local_subchannel_pool", 1),
    # A restarted server is found within about a second. gRPC's default waits grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # How long one attempt to connect may take, not a pause: enough for a distant server with TLS.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # Servers count a ping within 5 minutes of the last as a strike and drop the connection at the third, so this
    # stays above. On Linux the timeout is also how long sent bytes may go unacknowledged: a peer that vanished
    # without a word is noticed after 4 s, in time for a retry within the default deadline.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 4000),
)


class Stream:
    """A running server stream of encoded messages.

    Args:
        call: gRPC's call.
        proxy: Where the proxy of its connection comes from; empty if there is none.
    """

    def __init__(self, call: grpc.aio.UnaryStreamCall[bytes, bytes], proxy: str) -> None:
        self.call = call
        self.proxy = proxy

    def cancel(self) -> None:
        """Ends the RPC at once."""
        self.call.cancel()


class Connection:
    """The channels of one manager. They belong to the event loop of the first call.

    Args:
        address: Where the service is; see `parse_address`.
        connections: How many connections each address gets.
        timeout: Seconds that a call may take unless it says otherwise.
        credentials: Channel credentials; with them, or with an `https://` address, the connection is encrypted.
        channel_options: gRPC channel options, which override the ones in `CHANNEL_OPTIONS`.
        metadata: Pairs of key (lower case) and value to send with every call.

    Raises:
        ValueError: If the address, the timeout, the number of connections or the metadata is invalid, or credentials
            are given for `http://`.
        ManagerUnusableError: If gevent or eventlet has patched the process.
    """

    def __init__(
        self,
        address: str,
        *,
        connections: int,
        timeout: float,
        credentials: grpc.ChannelCredentials | None,
        channel_options: Sequence[tuple[str, Any]],
        metadata: Sequence[tuple[str, str | bytes]],
    ) -> None:
        reject_monkey_patching()
        self.address = address
        self._targets, tls = parse_address(address)
        if credentials is not None and tls is False:
            raise ValueError(f"credentials need an encrypted connection, and {address!r} asks for a plain one")
        self._connections = _check_connections(connections)
        self._timeout = check_timeout(timeout)
        self._encrypted = bool(tls) or credentials is not None
        self._credentials = credentials
        self._options = [*CHANNEL_OPTIONS, *channel_options]
        self._metadata = check_headers(metadata)
        self._channels: Channels | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: set[grpc.aio.UnaryStreamCall[bytes, bytes]] = set()
        self._closed = False

    def connect(self) -> Channel:
        """Returns the channel for the next call; makes all channels first if this is the first call.

        There is no await in this method, so concurrent first calls make the channels once.

        Raises:
            ManagerClosedError: If the connection was closed.
            ManagerUnusableError: If gRPC cannot work here: outside of an asyncio event loop, in another event loop
                than that of the first call, in a process that was forked while gRPC was in use, or that gevent or
                eventlet has patched.
        """
        if self._closed:
            raise ManagerClosedError("the manager is closed")
        loop = _running_loop()
        if self._channels is None:
            forks.refuse()
            # Again, because a server that was started with preloading patches after managers were made.
            reject_monkey_patching()
            self._channels, self._loop = self._open(), loop
        elif self._loop is not loop:
            raise ManagerUnusableError("this manager belongs to another event loop; make one manager for each loop")
        return self._channels.pick()

    def _open(self) -> Channels:
        credentials = (self._credentials or grpc.ssl_channel_credentials()) if self._encrypted else None
        return Channels(self._targets, self._connections, credentials, self._options)

    def attempts(self, timeout: float | None) -> Attempts:
        """Starts the clock of a call that may take this many seconds; None means the connection's own timeout."""
        return Attempts(self._timeout if timeout is None else check_timeout(timeout))

    async def call(self, method: Method[RequestT, ResponseT], request: RequestT, attempts: Attempts) -> ResponseT:
        """Makes a unary call, with retries. Every attempt sends the same bytes.

        Raises:
            UserServiceError: If the call failed; the error of its last attempt.
        """
        encoded = request.SerializeToString()
        while True:
            channel = self.connect()
            # Bytes in and out, for grpc.aio logs what a deserialiser raises and hands out None instead.
            stub: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.grpc_channel.unary_unary(method.path)
            try:
                response = await stub(encoded, timeout=attempts.remaining, metadata=self._metadata)
                return decode(method, response)
            except grpc.aio.AioRpcError as failure:
                await attempts.pause(error_from_call(failure, channel.proxy), failure)
            except asyncio.CancelledError:
                self._raise_if_closed()
                raise

    def open_stream(self, method: Method[RequestT, ResponseT], request: RequestT) -> Stream:
        """Starts a server stream of encoded messages, to be read with `read`. The caller cancels it when done."""
        channel = self.connect()
        stub: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.grpc_channel.unary_stream(method.path)
        call = stub(request.SerializeToString(), metadata=self._metadata)
        self._streams.add(call)
        call.add_done_callback(self._streams.discard)
        return Stream(call, channel.proxy)

    async def read(self, stream: Stream, attempts: Attempts) -> bytes:
        """Reads the next message of a stream.

        Raises:
            UserServiceError: If the stream failed, ended, or had no message in time.
        """
        # Messages that are here already come without a turn of the loop, in which asyncio.timeout could act.
        if not attempts.remaining:
            raise DeadlineExceededError(with_proxy("no chunk came in time", stream.proxy))
        try:
            async with asyncio.timeout(attempts.remaining):
                message = await stream.call.read()
        except grpc.aio.AioRpcError as failure:
            raise error_from_call(failure, stream.proxy) from failure
        except TimeoutError as timeout:
            raise DeadlineExceededError(with_proxy("no chunk came in time", stream.proxy)) from timeout
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        if not isinstance(message, bytes):  # grpc.aio.EOF
            raise UnavailableError("the stream ended before its last chunk")
        return message

    async def read_status(self, stream: Stream) -> None:
        """Reads the status of a stream whose last message was read; gives up after half a second.

        The status does not matter to the caller, who has all messages.
        """
        try:
            async with asyncio.timeout(_STATUS_SECONDS):
                await stream.call.read()
        except (grpc.aio.AioRpcError, TimeoutError):
            return
        except asyncio.CancelledError:
            with suppress(ManagerClosedError):
                self._raise_if_closed()
                raise

    def _raise_if_closed(self) -> None:
        # Closing the channel cancels its calls, and grpc.aio lets that look as if the awaiting task was cancelled.
        task = asyncio.current_task()
        if self._closed and task is not None and not task.cancelling():
            raise ManagerClosedError("the manager was closed during the call") from None

    async def close(self) -> None:
        """Closes the channels and ends their running calls with ManagerClosedError. Safe to call twice."""
        self._closed = True
        # Not all versions of grpc.aio end streams that nobody reads at the moment.
        for call in tuple(self._streams):
            call.cancel()
        channels, self._channels = self._channels, None
        if channels is not None:
            await channels.close()


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ManagerUnusableError(
            "this manager needs a running asyncio event loop; blocking programs use SyncUserManager or "
            "SyncSessionManager"
        ) from None


def _check_connections(connections: int) -> int:
    if isinstance(connections, bool) or not isinstance(connections, int) or not 1 <= connections <= MOST_CONNECTIONS:
        raise ValueError(f"connections must be an integer from 1 to {MOST_CONNECTIONS}, not {connections!r}")
    return connections


def decode(method: Method[RequestT, ResponseT], encoded: bytes) -> ResponseT:
    """Decodes a response.

    Raises:
        InternalError: If the bytes are not such a message, or there are none: gRPC returns None for a unary call that
            ends well without a message.
    """
    try:
        return method.response.FromString(encoded)
    except (DecodeError, TypeError) as error:
        raise InternalError(f"cannot decode the answer of {method.path}") from error
