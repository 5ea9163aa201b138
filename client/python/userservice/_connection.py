"""The connection of a manager to the service: it opens channels at the first call, and makes calls with retries."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from userservice._address import parse_address
from userservice._channels import Channel
from userservice._headers import Headers, check_headers
from userservice._lazy_channels import LazyChannels
from userservice._methods import Method
from userservice._monkey import reject_monkey_patching
from userservice._observed import Observed
from userservice._retry import Attempts, check_retries, check_timeout
from userservice._status import error_from_call, with_proxy
from userservice._tls import PemSource, TlsSettings
from userservice._token import AUTHORIZATION, bearer, check_plaintext, check_token, has_credential, hidden, is_insecure
from userservice._transport import (
    TRANSPORT_OPTIONS,
    RawExchange,
    RawStream,
    TokenSource,
    ask_token,
)
from userservice.errors import (
    DeadlineExceededError,
    InternalError,
    ManagerClosedError,
    UnavailableError,
)
from userservice.hooks import OnCall

RequestT = TypeVar("RequestT", bound="Message")
ResponseT = TypeVar("ResponseT", bound="Message")
RawT = TypeVar("RawT", bound=RawStream)

DEFAULT_ADDRESS = "localhost:50051"

MOST_CONNECTIONS = 100
"""Limit of `connections`; it protects the service from a mistaken number."""

DEFAULT_TIMEOUT = 10.0
"""Seconds that a call may take, including retries; for a stream, seconds to the next chunk."""

_STATUS_SECONDS = 0.5
_KIB = 1024

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # gRPC's own retries ignore error reasons and request_ids, and would multiply with the retries of this client.
    ("grpc.enable_retries", 0),
    # A full batch: 1000 users of 64 KiB of metadata and less than 4 KiB for the rest. gRPC's default is 4 MiB.
    ("grpc.max_receive_message_length", 1000 * (64 + 4) * _KIB),
    # The trailers contain the error details twice. The service keeps the trailers below gRPC's default limit of 8 KiB,
    # but proxies may add trailers.
    ("grpc.max_metadata_size", 512 * _KIB),
    # By default, gRPC enlarges the flow-control window as fast as the server sends: if the reader is slow, 4 to 6 MB of
    # a stream are buffered in the client. With a fixed window of 1 MiB, the size of the largest chunk, the client
    # buffers 1 to 2 MB, and a stream on the same machine was not slower. The window allows 1 MiB per round trip, which
    # is 10 MB/s with a round trip of 100 ms.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _KIB * _KIB),
    # Each manager has its own connections; see `Channels`.
    ("grpc.use_local_subchannel_pool", 1),
    # With these pauses, the client reconnects to a restarted server within about a second. gRPC's default pauses grow
    # to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # The timeout of one attempt to connect; despite its name, it is not a pause. It is sufficient for a distant server
    # with TLS.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # The service accepts a ping every 5 s. While a call runs, a ping every 20 s keeps NAT gateways and load balancers
    # from dropping the connection. On Linux, the timeout also limits how long sent bytes may stay unacknowledged: if
    # the server becomes unreachable, the client detects this after 4 s, early enough for a retry within the default
    # timeout.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 4000),
)


class Stream(NamedTuple, Generic[RawT]):
    """A running RPC with a stream of encoded responses."""

    raw: RawT
    """The stream of the transport."""

    proxy: str
    """The source of the proxy of the connection, such as `$https_proxy`; empty without a proxy."""

    observed: Observed
    """Reports the end of the RPC to the hook."""

    response: str
    """The noun for a response in error messages, such as `chunk`."""

    def cancel(self) -> None:
        """Ends the RPC at once."""
        self.raw.cancel()
        self.observed.end(grpc.StatusCode.CANCELLED)


Exchange: TypeAlias = Stream[RawExchange]
"""A running RPC that also has a stream of requests."""


class Connection:
    """The channels of one manager, and calls with deadlines and retries.

    Args:
        address: The address of the service; see `parse_address`.
        connections: The number of connections to each address.
        timeout: Seconds that a call may take, unless the call has its own timeout.
        credentials: Channel credentials; with them, or with an `https://` address, the connection is encrypted.
        channel_options: gRPC channel options; they override those in `CHANNEL_OPTIONS`.
        metadata: Pairs of key (lower case) and value to send with every call.
        token: The token of each call, or a callable that returns it.
        ca: Certificates of trusted authorities.
        cert: The certificate chain of the client.
        key: The private key of the client.
        allow_insecure_token: Allow a token over plain text to other machines.
        on_call: The hook that observes the attempts of calls.
        retries: The maximum number of retries of a call; None for any number before its deadline.

    Raises:
        TypeError: If the token or a TLS setting has a wrong type.
        ValueError: If an argument is invalid, TLS is configured for `http://`, or a token would be sent over plain text
            to another machine.
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
        token: TokenSource | None = None,
        ca: PemSource | None = None,
        cert: PemSource | None = None,
        key: PemSource | None = None,
        allow_insecure_token: bool = False,
        on_call: OnCall | None = None,
        retries: int | None = None,
    ) -> None:
        reject_monkey_patching()
        self.address = address
        self._targets, tls = parse_address(address)
        tls_settings = TlsSettings(ca, cert, key)
        if credentials is not None and tls_settings:
            raise ValueError("credentials and the options ca, cert and key exclude each other")
        if tls is False and (credentials is not None or tls_settings):
            named = "credentials need" if credentials is not None else "the options ca, cert and key need"
            raise ValueError(f"{named} an encrypted connection, but http:// in {address!r} disables encryption")
        encrypted = bool(tls) or credentials is not None or bool(tls_settings)
        self._may_send_token = allow_insecure_token or (encrypted and not is_insecure(credentials))
        self._set_call_options(timeout, retries, metadata, token)
        if on_call is not None and not callable(on_call):
            raise TypeError(f"on_call must be callable, not {type(on_call).__name__}")
        self._on_call = on_call
        self._owns_channels = True
        self._channels = LazyChannels(
            self._targets,
            _check_connections(connections),
            encrypted=encrypted,
            credentials=credentials,
            tls=tls_settings,
            options=[*CHANNEL_OPTIONS, *TRANSPORT_OPTIONS, *channel_options],
        )

    def _set_call_options(
        self,
        timeout: float,
        retries: int | None,
        metadata: Sequence[tuple[str, str | bytes]],
        token: TokenSource | None,
    ) -> None:
        """Sets the options that `with_options` can change.

        Raises:
            TypeError: If the token has a wrong type.
            ValueError: If an option is invalid, or a token would be sent over plain text to another machine.
        """
        token = hidden(token)
        self._timeout = check_timeout(timeout)
        self._retries = check_retries(retries)
        self._own_metadata = self._metadata = check_headers(metadata)
        self._token = token
        self._ask: TokenSource | None = token if callable(token) else None
        if token is not None:
            check_token(token, self._metadata)
        if isinstance(token, str):
            self._metadata = (*self._metadata, (AUTHORIZATION, bearer(token)))
        if not self._may_send_token and (self._ask is not None or has_credential(self._metadata)):
            check_plaintext(self._targets)

    def with_options(
        self,
        *,
        timeout: float | None,
        retries: int | None,
        metadata: Sequence[tuple[str, str | bytes]],
        token: TokenSource | None,
    ) -> Connection:
        """Returns a connection that has other options and shares the channels of this connection; None keeps an option.

        Args:
            timeout: See the class.
            retries: See the class.
            metadata: Pairs to send in addition. They replace the pairs of this connection that have the same keys.
            token: See the class.

        Raises:
            TypeError: If the token has a wrong type.
            ValueError: If an option is invalid, or a token would be sent over plain text to another machine.
        """
        token = hidden(token)
        added = check_headers(metadata)
        keys = {key for key, _ in added}
        twin = copy.copy(self)
        twin._owns_channels = False  # noqa: SLF001 - the same class
        twin._set_call_options(  # noqa: SLF001
            self._timeout if timeout is None else timeout,
            self._retries if retries is None else retries,
            (*(pair for pair in self._own_metadata if pair[0] not in keys), *added),
            self._token if token is None else token,
        )
        return twin

    @property
    def caller(self) -> tuple[Headers, int]:
        """A value that is equal for connections that share their channels and send the same metadata and token.

        A callable token is compared by identity. The value is valid while one of these connections exists.
        """
        return self._metadata, 0 if self._ask is None else id(self._ask)

    def connect(self) -> Channel:
        """Returns the channel for the next call. The first call opens all channels.

        Raises:
            ManagerClosedError: If the connection was closed.
            ManagerUnusableError: If the process was forked while gRPC was in use, or if gevent or eventlet has patched
                the process. With asyncio, also if no event loop is running, or if the running event loop is not that of
                the first call.
        """
        return self._channels.get().pick()

    def check_usable(self) -> None:
        """Opens the channels at the first call.

        Raises:
            ManagerClosedError: If the connection was closed.
            ManagerUnusableError: If gRPC cannot work in this process or event loop; see `connect`.
        """
        self._channels.get()

    def attempts(self, timeout: float | None) -> Attempts:
        """Returns the attempts of a call, whose deadline starts now; None means the timeout of the connection."""
        seconds = self._timeout if timeout is None else check_timeout(timeout)
        return Attempts(seconds, can_renew_token=self._ask is not None, retries=self._retries)

    async def _headers(self, timeout: float) -> Headers:  # noqa: ASYNC109 - the deadline of the call
        """Returns the headers of a call. Asks for the token if it is a callable.

        Raises:
            DeadlineExceededError: If the callable did not return in time.
        """
        if self._ask is None:
            return self._metadata
        token = hidden(await ask_token(self._ask, timeout))
        return (*self._metadata, (AUTHORIZATION, bearer(token, "the result of the callable token")))

    async def call(self, method: Method[RequestT, ResponseT], request: RequestT, attempts: Attempts) -> ResponseT:
        """Makes a unary call with retries. Every attempt sends the same bytes.

        Raises:
            UserServiceError: If the call failed. If the last attempt failed because the deadline passed, and there was
                a previous attempt, the error of the previous attempt is raised.
        """
        encoded = request.SerializeToString()
        while True:
            headers = await self._headers(attempts.remaining)
            channel = self.connect()
            try:
                response = await self._unary(channel, method.path, encoded, attempts.remaining, headers)
                return decode(method, response)
            except grpc.aio.AioRpcError as failure:
                await attempts.pause(error_from_call(failure, channel.proxy), failure)

    async def call_once(
        self,
        method: Method[RequestT, ResponseT],
        request: RequestT,
        timeout: float,  # noqa: ASYNC109 - sent to the service as a deadline
    ) -> ResponseT:
        """Makes a unary call without retries.

        Raises:
            UserServiceError: If the call failed.
        """
        deadline = time.monotonic() + timeout
        headers = await self._headers(timeout)
        remaining = max(0.0, deadline - time.monotonic())
        channel = self.connect()
        try:
            response = await self._unary(channel, method.path, request.SerializeToString(), remaining, headers)
        except grpc.aio.AioRpcError as failure:
            raise error_from_call(failure, channel.proxy) from failure
        return decode(method, response)

    async def _unary(
        self,
        channel: Channel,
        path: str,
        encoded: bytes,
        timeout: float,  # noqa: ASYNC109 - as above
        headers: Headers,
    ) -> bytes:
        """Makes one attempt of a unary call, and reports it to the hook."""
        observed = Observed(self._on_call, path, self.address, headers)
        try:
            response = await channel.raw.unary(path, encoded, timeout, observed.headers)
        except grpc.aio.AioRpcError as failure:
            observed.end(failure.code())
            raise
        except BaseException:  # cancelled, interrupted, or the manager was closed
            observed.end(grpc.StatusCode.CANCELLED)
            raise
        observed.end(grpc.StatusCode.OK)
        return response

    async def open_stream(
        self, method: Method[RequestT, ResponseT], request: RequestT, attempts: Attempts
    ) -> Stream[RawStream]:
        """Starts a server stream of encoded messages for `read`. The caller must cancel the stream at the end."""
        headers = await self._headers(attempts.remaining)
        channel = self.connect()
        observed = Observed(self._on_call, method.path, self.address, headers)
        raw = channel.raw.stream(method.path, request.SerializeToString(), observed.headers)
        return Stream(raw, channel.proxy, observed, "chunk")

    async def open_exchange(self, method: Method[RequestT, ResponseT], attempts: Attempts) -> Exchange:
        """Starts an RPC with a stream of requests and a stream of responses. The caller must cancel it at the end."""
        headers = await self._headers(attempts.remaining)
        channel = self.connect()
        observed = Observed(self._on_call, method.path, self.address, headers)
        return Stream(channel.raw.exchange(method.path, observed.headers), channel.proxy, observed, "response")

    async def write(self, exchange: Exchange, encoded: bytes, attempts: Attempts) -> None:
        """Sends a message of an exchange.

        Raises:
            UserServiceError: If the RPC failed, or the service accepted no more bytes in time.
        """
        try:
            await exchange.raw.write(encoded, attempts.remaining)
        except grpc.aio.AioRpcError as failure:
            exchange.observed.end(failure.code())
            raise error_from_call(failure, exchange.proxy) from failure
        except TimeoutError as timeout:
            exchange.observed.end(grpc.StatusCode.DEADLINE_EXCEEDED)
            raise DeadlineExceededError(with_proxy("the request was not sent in time", exchange.proxy)) from timeout

    async def read(self, stream: Stream[RawT], attempts: Attempts) -> bytes:
        """Reads the next response of a stream.

        Raises:
            UserServiceError: If the RPC failed, ended, or had no response in time.
        """
        # gRPC returns a message that has already arrived without waiting, so the timeout of `read` has no effect on it.
        if not attempts.remaining:
            raise self._late(stream)
        try:
            message = await stream.raw.read(attempts.remaining)
        except grpc.aio.AioRpcError as failure:
            stream.observed.end(failure.code())
            raise error_from_call(failure, stream.proxy) from failure
        except TimeoutError as timeout:
            raise self._late(stream) from timeout
        if message is None:
            stream.observed.end(grpc.StatusCode.OK)
            raise UnavailableError(f"the stream ended before its last {stream.response}")
        return message

    def _late(self, stream: Stream[RawT]) -> DeadlineExceededError:
        """Ends a stream that had no response in time; returns the error."""
        stream.observed.end(grpc.StatusCode.DEADLINE_EXCEEDED)
        return DeadlineExceededError(with_proxy(f"no {stream.response} arrived in time", stream.proxy))

    async def end(self, exchange: Exchange) -> None:
        """Ends the requests of an exchange, and reads its status."""
        with suppress(grpc.aio.AioRpcError):
            await exchange.raw.done_writing()
        await self.read_status(exchange)

    async def read_status(self, stream: Stream[RawT]) -> None:
        """Reads the status of a stream whose last message was read; gives up after half a second.

        The result does not matter, because the caller has all messages.
        """
        try:
            await stream.raw.read(_STATUS_SECONDS)
        except (grpc.aio.AioRpcError, TimeoutError, ManagerClosedError):
            return
        finally:
            stream.observed.end(grpc.StatusCode.OK)

    async def close(self) -> None:
        """Closes the channels and ends their running calls with ManagerClosedError. Safe to call twice.

        Has no effect on a connection from `with_options`, because it does not own the channels.
        """
        if self._owns_channels:
            await self._channels.close()


def _check_connections(connections: int) -> int:
    if isinstance(connections, bool) or not isinstance(connections, int) or not 1 <= connections <= MOST_CONNECTIONS:
        raise ValueError(f"connections must be an integer from 1 to {MOST_CONNECTIONS}, not {connections!r}")
    return connections


def decode(method: Method[RequestT, ResponseT], encoded: bytes) -> ResponseT:
    """Decodes a response.

    Raises:
        InternalError: If the bytes are not a message of this class, or `encoded` is None. gRPC returns None for a unary
            call that succeeds without a message.
    """
    try:
        return method.response.FromString(encoded)
    except (DecodeError, TypeError) as error:
        raise InternalError(f"cannot decode the response of {method.path}") from error
