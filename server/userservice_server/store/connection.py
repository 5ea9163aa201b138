"""One connection to Redis that all calls of a process share.

All commands of two turns of the event loop leave in one write, and the replies are matched to them in order. Nobody
borrows the connection, so a cancelled call leaves nothing behind: its reply is read in its turn and dropped, and can
never be taken for the answer to somebody else's question.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from hiredis import Reader, pack_command
from redis._parsers import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import InvalidResponse, RedisError

from userservice_server.store.failures import translated, unavailable

RECONNECT_PAUSE = 0.25  # seconds between attempts; calls in between fail at once instead of piling up
_WATCH_INTERVAL = 0.05  # seconds between looks at the oldest unanswered command
_NOT_YET = object()  # what the parser gives as long as a reply is not whole

_Unanswered = deque[tuple["asyncio.Future[Any]", float]]


class _Replies(asyncio.Protocol):
    """Gives replies to the futures that wait for them, in order, as soon as their bytes are there.

    Attributes:
        lost: what happened, as soon as the connection is of no use any more.
    """

    def __init__(self, unanswered: _Unanswered) -> None:
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._unanswered = unanswered
        self._parser = Reader(protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_NOT_YET)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self.lost.done():
            return
        parser, unanswered = self._parser, self._unanswered
        try:
            parser.feed(data)
            while (reply := parser.gets()) is not _NOT_YET:
                if isinstance(reply, LostError):  # such as LOADING: of no use for now, whatever is asked
                    raise reply
                if not unanswered:
                    raise InvalidResponse("a reply came that nobody asked for")
                future, _ = unanswered.popleft()
                if future.done():  # its caller was cancelled
                    continue
                if isinstance(reply, RedisError):
                    future.set_exception(translated(reply))
                    future.exception()  # seen here, in case nobody awaits it any more
                else:
                    future.set_result(reply)
        except RedisError as error:
            self.connection_lost(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        if not self.lost.done():
            self.lost.set_result(exc or LostError("the store closed the connection"))


class SharedConnection:
    """Sends commands over one connection, and connects again by itself when that is lost.

    Args:
        make_connection: gives a new, unconnected connection of redis-py, which does the handshake (TLS, AUTH, SELECT).
        timeout: seconds that connecting and each reply may take; then the connection is given up.
    """

    def __init__(self, make_connection: Callable[[], AbstractConnection], timeout: float) -> None:
        self._make_connection = make_connection
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._outbox: list[bytes] = []
        self._unanswered: _Unanswered = deque()
        self._transport: asyncio.WriteTransport | None = None
        self._task: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._lost_by: BaseException | None = None
        self._closed = False

    def send(self, *command: bytes | str | int) -> "asyncio.Future[Any]":
        """Sends a command with those of this turn and the next; returns a future of the reply, as bytes undecoded.

        The future raises StoreUnavailableError or StoreFullError, and ResponseError for what only a bug can cause.
        """
        reply = self._loop.create_future()
        now = self._loop.time()
        if self._task is None:
            if self._closed or now < self._retry_at:
                reply.set_exception(unavailable(self._lost_by))
                reply.exception()  # seen here, in case nobody awaits it
                return reply
            self._task = self._loop.create_task(self._live())
        if not self._outbox:
            # Not this turn's end but the next one's: grpc hands over one call a turn, and writes are what costs.
            self._loop.call_soon(self._loop.call_soon, self._flush)
        self._outbox.append(pack_command(command))  # type: ignore[arg-type]  # its stub allows tuples of one only
        self._unanswered.append((reply, now))
        return reply

    async def close(self) -> None:
        """Ends the connection. Commands without a reply fail."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def reset(self) -> None:
        """Throws the connection away: what it answers can no longer be trusted. The next command makes a new one."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._drop()

    async def _live(self) -> None:
        """One connection from its making to its end."""
        connection = self._make_connection()
        self._lost_by = None
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
            replies = _Replies(self._unanswered)
            self._transport = _taken_over(connection, replies)
            self._flush()
            await self._watch(replies.lost)
        except (RedisError, OSError, TimeoutError) as lost:
            self._lost_by = lost
        finally:
            if self._task is asyncio.current_task():  # else it was reset, and another may live already
                self._task = None
                self._retry_at = self._loop.time() + RECONNECT_PAUSE
                self._drop()
            await connection.disconnect(nowait=True)

    def _flush(self) -> None:
        if self._transport is not None and self._outbox:
            self._transport.write(b"".join(self._outbox))
            self._outbox.clear()

    async def _watch(self, lost: "asyncio.Future[Exception]") -> None:
        """Raises what ends the connection: its loss, or an overdue reply. One timer for all calls, not one each."""
        while not lost.done():
            await asyncio.wait([lost], timeout=_WATCH_INTERVAL)
            if self._unanswered and self._loop.time() - self._unanswered[0][1] > self._timeout:
                raise TimeoutError("a reply is overdue")
        raise lost.result()

    def _drop(self) -> None:
        """Parts with the transport and fails what is unanswered."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        unanswered, self._unanswered = self._unanswered, deque()
        self._outbox.clear()
        for future, _ in unanswered:
            if not future.done():
                future.set_exception(unavailable(self._lost_by))
                future.exception()  # seen here, in case nobody awaits it any more


def _taken_over(connection: AbstractConnection, replies: _Replies) -> asyncio.WriteTransport:
    """Has all that comes after the handshake given to ``replies``, past the streams that redis-py reads from.

    Those wake a task for every piece of at most 64 KiB, and have it pass each reply through several coroutines.
    """
    reader, writer = cast("Any", connection)._reader, cast("Any", connection)._writer  # noqa: SLF001 - no public way
    transport: asyncio.WriteTransport = writer.transport
    if reader.at_eof() or transport.is_closing():
        raise LostError("the store closed the connection")
    transport.set_protocol(replies)
    return transport
