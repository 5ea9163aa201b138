"""One connection to Redis that all calls of a process share.

The commands of several turns of the event loop leave in one write, a batch, and the replies are matched in order.
Nobody borrows the connection, so a cancelled call leaves nothing behind: its reply is read in its turn and dropped.

A batch ends with an ECHO that carries a number of its own, and replies are handed out when that number has come back in
its place. A reply that nobody asked for (left unread, sent twice) moves all that follow by one place; the batch is then
refused as a whole and the connection thrown away. No reply is ever taken for the answer to somebody else's question.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from hiredis import Reader, pack_command
from redis._parsers import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import InvalidResponse, RedisError

from userservice_server.store.failures import translated, unavailable

RECONNECT_PAUSE = 0.25  # seconds between attempts to connect; calls in between fail at once instead of piling up
_WATCH_INTERVAL = 0.05  # seconds between looks at the oldest unanswered command
# When a batch leaves: after so many turns of the event loop that brought no command, or with so many commands. grpc
# hands over a call every few turns, and a write, the wake-up of Redis and the read that follows were a third of the
# time of a single call (docs/performance.md). A turn with nothing to do takes microseconds: a lone call waits little.
QUIET_TURNS = 6
_FULL_BATCH = 32
_READ_BYTES = 256 << 10  # of one read from the socket
_NOT_YET = object()  # what the parser gives as long as a reply is not whole

_numbers = itertools.count(1)


@dataclass(slots=True, eq=False)
class _Batch:
    """Commands that leave in one write.

    Attributes:
        since: when it left, in the loop's time; until then, when the first of them was given.
        commands: encoded.
        futures: of their replies.
        mark: what the ECHO after the last of them is answered with.
    """

    since: float
    commands: list[bytes]
    futures: "list[asyncio.Future[Any]]"
    mark: bytes

    def hand_out(self, replies: list[Any]) -> None:
        """Gives each reply to the one who waits for it."""
        for future, reply in zip(self.futures, replies, strict=True):
            if future.done():  # its caller was cancelled
                continue
            if isinstance(reply, RedisError):
                future.set_exception(translated(reply))
                future.exception()  # seen here, in case nobody awaits it any more
            else:
                future.set_result(reply)

    def fail(self, cause: BaseException | None) -> None:
        """Tells all who wait that there will be no reply."""
        for future in self.futures:
            if not future.done():
                future.set_exception(unavailable(cause))
                future.exception()  # seen here, in case nobody awaits it any more


class _Replies(asyncio.BufferedProtocol):
    """Gives replies to the futures that wait for them, a batch at a time, as soon as their bytes are there.

    Attributes:
        lost: what happened, as soon as the connection is of no use any more.
        received_at: when bytes came last, in the loop's time.
    """

    def __init__(self, unanswered: deque[_Batch]) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[Exception] = self._loop.create_future()
        self.received_at = self._loop.time()
        self._unanswered = unanswered
        self._buffer = bytearray(_READ_BYTES)
        self._replies: list[Any] = []  # of the oldest batch, as far as they have come
        self._parser = Reader(protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_NOT_YET)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - the protocol's signature
        """Called by the loop, for a place to read into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop, when it has read."""
        if self.lost.done():
            return
        self.received_at = self._loop.time()
        parser = self._parser
        try:
            parser.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # its stub knows no buffers
            while (reply := parser.gets()) is not _NOT_YET:
                self._take(reply)
        except RedisError as error:
            self.connection_lost(error)

    def _take(self, reply: Any) -> None:
        if isinstance(reply, LostError):  # such as LOADING: of no use for now, whatever is asked
            raise reply
        if not self._unanswered:
            raise InvalidResponse("a reply came that nobody asked for")
        batch = self._unanswered[0]
        if len(self._replies) < len(batch.futures):
            self._replies.append(reply)
            return
        if reply != batch.mark:
            raise reply if isinstance(reply, RedisError) else InvalidResponse("replies came out of place")
        self._unanswered.popleft()
        replies, self._replies = self._replies, []
        batch.hand_out(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        if not self.lost.done():
            self.lost.set_result(exc or LostError("the store closed the connection"))


class SharedConnection:
    """Sends commands over one connection, and connects again by itself when that is lost.

    Args:
        make_connection: gives a new, unconnected connection of redis-py, which does the handshake (TLS, AUTH, SELECT).
        timeout: seconds that connecting and each reply may take; then the connection is given up.
        quiet_turns: after how many turns of the event loop that brought no command a batch leaves.
        long_replies: whether replies may be so long that the time runs from the last bytes that came, not from the
            command: a store that sends a long reply, or those before it, is not unavailable.
    """

    def __init__(
        self,
        make_connection: Callable[[], AbstractConnection],
        timeout: float,
        quiet_turns: int = QUIET_TURNS,
        *,
        long_replies: bool = False,
    ) -> None:
        self._make_connection = make_connection
        self._timeout = timeout
        self._quiet_turns = quiet_turns
        self._long_replies = long_replies
        self._replies: _Replies | None = None
        self._loop = asyncio.get_running_loop()
        self._next: _Batch | None = None  # what has not left yet
        self._unanswered: deque[_Batch] = deque()
        self._transport: asyncio.WriteTransport | None = None
        self._task: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._lost_by: BaseException | None = None
        self._closed = False

    def send(self, *command: bytes | str | int) -> "asyncio.Future[Any]":
        """Sends a command with those given at about the same time; returns a future of the reply, as bytes undecoded.

        The future raises StoreUnavailableError or StoreFullError, and ResponseError for what only a bug can cause.
        """
        reply = self._loop.create_future()
        if self._task is None:
            if self._closed or self._loop.time() < self._retry_at:
                reply.set_exception(unavailable(self._lost_by))
                reply.exception()  # seen here, in case nobody awaits it
                return reply
            self._task = self._loop.create_task(self._live())
        batch = self._next
        if batch is None:
            batch = self._next = _Batch(self._loop.time(), [], [], b"%d" % next(_numbers))
            self._loop.call_soon(self._gather, batch, 0, 0)
        batch.commands.append(pack_command(command))  # type: ignore[arg-type]  # its stub allows tuples of one only
        batch.futures.append(reply)
        return reply

    @property
    def waits_for(self) -> float:
        """For how many seconds the oldest command without a reply has been waiting, since it was sent.

        With long replies: since then, or since the last bytes that came.
        """
        oldest = self._unanswered[0] if self._unanswered else self._next
        if oldest is None:
            return 0.0
        progress = self._replies.received_at if self._long_replies and self._replies else 0.0
        return self._loop.time() - max(oldest.since, progress)

    async def close(self) -> None:
        """Ends the connection. Commands without a reply fail."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._drop()  # of a task that never ran, too

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
        started = self._loop.time()
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
            replies = self._replies = _Replies(self._unanswered)
            self._transport = _taken_over(connection, replies)
            self._flush()
            await self._watch(replies.lost)
        except (RedisError, OSError, TimeoutError) as lost:
            self._lost_by = lost
        finally:
            if self._task is asyncio.current_task():  # else it was reset, and another may live already
                self._task = None
                # One that lived is replaced at once: the calls that were lost with it are being repeated already.
                self._retry_at = RECONNECT_PAUSE + (started if self._transport else self._loop.time())
                self._drop()
            await connection.disconnect(nowait=True)

    def _gather(self, batch: _Batch, size: int, quiet_turns: int) -> None:
        """Looks once a turn whether the batch, which had ``size`` commands a turn ago, is to leave."""
        if batch is not self._next:
            return  # it left with the connection's making, or went down with it
        quiet_turns = quiet_turns + 1 if len(batch.futures) == size else 0
        if quiet_turns >= self._quiet_turns or len(batch.futures) >= _FULL_BATCH:
            self._flush()
        else:
            self._loop.call_soon(self._gather, batch, len(batch.futures), quiet_turns)

    def _flush(self) -> None:
        batch = self._next
        if batch is None or self._transport is None or self._transport.is_closing():
            return  # with a lost connection, the batch goes down in _drop
        self._next = None
        batch.since = self._loop.time()  # connecting has a time of its own
        self._unanswered.append(batch)
        # Not PING: while Redis refuses writes for a full disk (MISCONF), it refuses that too, and still answers reads.
        batch.commands.append(pack_command(("ECHO", batch.mark)))  # type: ignore[arg-type]  # as above
        self._transport.write(b"".join(batch.commands))
        batch.commands.clear()

    async def _watch(self, lost: "asyncio.Future[Exception]") -> None:
        """Raises what ends the connection: its loss, or an overdue reply. One timer for all calls, not one each."""
        while not lost.done():
            await asyncio.wait([lost], timeout=_WATCH_INTERVAL)
            if self._unanswered and self.waits_for > self._timeout:
                raise TimeoutError("a reply is overdue")
        raise lost.result()

    def _drop(self) -> None:
        """Parts with the transport and fails what is unanswered."""
        self._replies = None
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        unanswered, self._unanswered = self._unanswered, deque()
        if self._next is not None:
            unanswered.append(self._next)
            self._next = None
        for batch in unanswered:
            batch.fail(self._lost_by)


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
