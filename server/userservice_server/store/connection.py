"""One connection to Redis that all calls of a process share.

The commands of several turns of the event loop are sent in one write, a batch, and replies are matched to commands by
their order. Callers do not borrow the connection, so a cancelled call leaves no unread reply: the connection reads the
reply and drops it.

A batch ends with an ECHO of a unique number, and replies are delivered only if this number returns in its place. An
unexpected reply (left unread, sent twice) shifts all later replies by one; the batch is then discarded and the
connection closed. So no caller ever receives the reply to another caller's command.

Every new connection is checked (`admit`) before it carries the first command of a call.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from hiredis import Reader, pack_command
from redis._parsers import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import InvalidResponse, NoPermissionError, RedisError

from userservice_server.store.events import StoreEvents
from userservice_server.store.failures import UnconfirmedError, translated, unavailable

Send = Callable[..., "asyncio.Future[Any]"]  # takes the parts of a command
Rejected = Callable[[bytes, "asyncio.Future[Any]", RedisError], bool]
"""Called with an encoded command, its future and the error reply; returns True if it sends the command elsewhere."""

RECONNECT_PAUSE = 0.25  # seconds between attempts to connect; calls in between fail at once
_WATCH_INTERVAL = 0.05  # seconds between checks of the oldest unanswered command
# A batch is sent after QUIET_TURNS turns of the event loop without a new command, or with _FULL_BATCH commands. grpc
# delivers a call only every few turns, and without batches the write, the wake-up of Redis and the read took a third of
# the time of a single call (docs/performance.md). An idle turn takes microseconds, so a lone call waits little.
QUIET_TURNS = 6
_FULL_BATCH = 32
_WAIT_SHARE = 0.5  # of the timeout: how long WAIT waits for replicas
_READ_BYTES = 256 << 10  # of one read from the socket
_ASKING = pack_command(("ASKING",))
_NOT_YET = object()  # the parser returns this while a reply is incomplete

_numbers = itertools.count(1)


class UnfitForWritesError(Exception):
    """Raised by ``admit``: the connection may be used for reads, but not for writes."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Commands that are sent in one write.

    Attributes:
        since: the loop's time at which the batch was sent; before that, the time of its first command.
        commands: the encoded commands.
        futures: the futures of their replies.
        mark: the argument of the ECHO that ends the batch.
        rejected: gets the commands with an error reply; None: their futures fail.
        replicas: number of replicas that must confirm the writes of the batch; 0: WAIT is not sent.
    """

    since: float
    commands: list[bytes]
    futures: "list[asyncio.Future[Any]]"
    mark: bytes
    rejected: Rejected | None = None
    replicas: int = 0

    def hand_out(self, replies: list[Any]) -> None:
        """Delivers each reply to its future."""
        if self.replicas and not _is_confirmed(confirmed := replies.pop(), self.replicas):
            # The writes were applied on this server, but a failover can lose them. The error makes clients repeat them.
            error = confirmed if isinstance(confirmed, NoPermissionError) else UnconfirmedError()
            replies = [reply if isinstance(reply, RedisError) else error for reply in replies]
        for future, reply in zip(self.futures, replies, strict=True):
            if future.done():  # its caller was cancelled
                continue
            if not isinstance(reply, RedisError):
                future.set_result(reply)
            elif self.rejected is None or not self.rejected(self._command_of(future), future, reply):
                future.set_exception(translated(reply))
                future.exception()  # marks it as retrieved, in case nobody awaits it any more

    def _command_of(self, future: "asyncio.Future[Any]") -> bytes:
        return self.commands[self.futures.index(future)]

    def fail(self, cause: BaseException | None) -> None:
        """Fails the futures that have no reply."""
        for future in self.futures:
            if not future.done():
                future.set_exception(unavailable(cause))
                future.exception()  # marks it as retrieved, in case nobody awaits it any more


def _is_confirmed(reply: Any, replicas: int) -> bool:
    """Returns whether enough replicas have confirmed the writes, by the reply to WAIT."""
    return isinstance(reply, int) and reply >= replicas


class _Replies(asyncio.BufferedProtocol):
    """Parses replies and delivers them, a batch at a time.

    Attributes:
        lost: future of the reason why the connection cannot be used any more.
        received_at: the loop's time at which the last bytes arrived.
    """

    def __init__(self, unanswered: deque[_Batch]) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[Exception] = self._loop.create_future()
        self.received_at = self._loop.time()
        self._unanswered = unanswered
        # With TLS, asyncio fills slices of the buffer one after the other, and a slice of a bytearray is a copy.
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._replies: list[Any] = []  # received so far for the oldest batch
        self._parser = Reader(protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_NOT_YET)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the protocol's signature
        """Called by the loop: returns the buffer to read into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop after a read."""
        if self.lost.done():
            return
        self.received_at = self._loop.time()
        parser = self._parser
        try:
            parser.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # its stub declares no buffers
            while (reply := parser.gets()) is not _NOT_YET:
                self._take(reply)
        except RedisError as error:
            self.connection_lost(error)

    def _take(self, reply: Any) -> None:
        if isinstance(reply, LostError):  # such as LOADING or NOAUTH: the server rejects every command
            raise reply
        if not self._unanswered:
            raise InvalidResponse("a reply without a command")
        batch = self._unanswered[0]
        if len(self._replies) < len(batch.futures) + bool(batch.replicas):
            self._replies.append(reply)
            return
        if reply != batch.mark:
            raise reply if isinstance(reply, RedisError) else InvalidResponse("replies out of order")
        self._unanswered.popleft()
        replies, self._replies = self._replies, []
        batch.hand_out(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop when the connection is lost."""
        if not self.lost.done():
            self.lost.set_result(exc or LostError("the store closed the connection"))


class SharedConnection:
    """Sends commands over one connection; after the connection is lost, the next command makes a new one.

    Args:
        make_connection: returns a new, unconnected connection of redis-py, which does the handshake.
        admit: checks the server over a new connection while commands wait. If it raises UnfitForWritesError, these
            commands fail, because they may be writes; if it raises another exception, the connection is closed.
        timeout: limit in seconds for connecting and for each reply; then the connection is closed.
        quiet_turns: a batch is sent after this number of turns of the event loop without a new command.
        long_replies: whether the timeout of a reply starts again whenever bytes arrive. A store that is still sending a
            long reply, or the replies before it, is not unavailable.
        events: observes batches and connections.
        rejected: may send a command that was rejected without being executed to another server of a cluster.
        replicas: number of replicas that must confirm the writes of a batch before its replies are delivered (WAIT).
            All writes of a batch wait together. The replies of a batch that is not confirmed in time fail.

    Attributes:
        write_fault: why ``send_write`` must not send commands; None: it may send them.
    """

    def __init__(
        self,
        make_connection: Callable[[], AbstractConnection],
        admit: Callable[[Send], Awaitable[None]],
        timeout: float,
        quiet_turns: int = QUIET_TURNS,
        *,
        long_replies: bool = False,
        events: StoreEvents | None = None,
        rejected: Rejected | None = None,
        replicas: int = 0,
    ) -> None:
        self._make_connection = make_connection
        self._admit = admit
        self._timeout = timeout
        self._quiet_turns = quiet_turns
        self._long_replies = long_replies
        self._events = events
        self._rejected = rejected
        self._replicas = replicas
        self._was_connected = False
        self.write_fault: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._next: _Batch | None = None  # not sent yet
        self._unanswered: deque[_Batch] = deque()
        self._transport: asyncio.WriteTransport | None = None  # of an admitted connection
        self._task: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._lost_by: BaseException | None = None
        self._closed = False

    def send(self, *command: bytes | str | int) -> "asyncio.Future[Any]":
        """Sends a command, in a batch with commands that are sent soon after it; returns a future of the reply.

        The reply consists of undecoded bytes. The future raises StoreUnavailableError or StoreFullError, and
        ResponseError if only a bug can cause the reply.
        """
        reply = self._loop.create_future()
        self._add(pack_command(command), reply)  # type: ignore[arg-type]  # its stub allows tuples of one only
        return reply

    def send_write(self, *command: bytes | str | int) -> "asyncio.Future[Any]":
        """As ``send``, for a command that may write; it fails if the connection is not fit for writes."""
        if self.write_fault is None:
            return self.send(*command)
        reply = self._loop.create_future()
        reply.set_exception(unavailable(self.write_fault))
        reply.exception()  # marks it as retrieved, in case nobody awaits it
        return reply

    def resend(self, command: bytes, reply: "asyncio.Future[Any]", *, asking: bool = False) -> None:
        """Sends an encoded command that another connection did not send, or that another server did not execute.

        Args:
            command: the encoded command.
            reply: the future of the reply.
            asking: whether ASKING precedes the command, because its slot is being moved to this server.
        """
        if asking:
            self._add(_ASKING, self._loop.create_future())
        self._add(command, reply)

    def _add(self, command: bytes, reply: "asyncio.Future[Any]") -> None:
        """Adds an encoded command to the next batch; makes a connection if there is none."""
        if self._task is None:
            if self._closed or self._loop.time() < self._retry_at:
                reply.set_exception(unavailable(self._lost_by))
                reply.exception()  # marks it as retrieved, in case nobody awaits it
                return
            self._task = self._loop.create_task(self._live())
        batch = self._next
        if batch is None:
            mark = b"%d" % next(_numbers)
            batch = self._next = _Batch(self._loop.time(), [], [], mark, self._rejected, self._replicas)
            self._loop.call_soon(self._gather, batch, 0, 0)
        batch.commands.append(command)
        batch.futures.append(reply)

    def retire(self, successor: "SharedConnection | None" = None) -> "asyncio.Task[None] | None":
        """Closes the connection as soon as the commands sent over it are answered.

        Args:
            successor: sends the commands that wait for this connection to be made; None: these commands fail.

        Returns:
            A task that ends when the connection is closed, or None if the connection is closed already.
        """
        self._closed = True
        if self._transport is None:
            unsent = self._next
            if unsent is not None and successor is not None:
                self._next = None
                for command, reply in zip(unsent.commands, unsent.futures, strict=True):
                    successor.resend(command, reply)
            self.reset()
        return self._task

    async def close(self) -> None:
        """Closes the connection. Commands without a reply fail."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._drop()  # also after a task that never ran

    def reset(self) -> None:
        """Closes a connection whose replies cannot be trusted any more. The next command makes a new connection."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._drop()

    async def _live(self) -> None:
        """Makes one connection and watches it until it is lost or closed."""
        connection = self._make_connection()
        self._lost_by = None
        started = self._loop.time()
        task, transport, admission = asyncio.current_task(), None, None
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
            replies = _Replies(self._unanswered)
            transport = taken_over(connection, replies)
            admission = self._loop.create_task(self._open(transport, replies, task))
            await self._watch(replies)
        except Exception as lost:  # noqa: BLE001 - any failure, also of the checks, ends this connection
            self._lost_by = lost
        finally:
            if admission is not None:
                admission.cancel()
            if self._task is task:  # False after a reset; there may be a new connection already
                self._task = None
                # An admitted connection is replaced at once, because clients already retry the calls that failed.
                self._retry_at = RECONNECT_PAUSE + (started if self._transport else self._loop.time())
                self._drop()
            if transport is not None:
                transport.abort()
            await connection.disconnect(nowait=True)

    async def _open(
        self, transport: asyncio.WriteTransport, replies: _Replies, task: "asyncio.Task[None] | None"
    ) -> None:
        """Lets calls use the connection once the server has been checked."""
        write_fault = None
        try:
            await self._admit(partial(self._send_ahead, transport))
        except UnfitForWritesError as error:
            write_fault = error.__cause__ or error
        except Exception as error:  # noqa: BLE001 - as in _live, which raises it again
            replies.connection_lost(error)
            return
        if self._task is task:  # False if the connection was reset in the same turn
            self.write_fault = write_fault
            if write_fault is not None and self._next is not None:
                self._next.fail(write_fault)
                self._next = None
            self._transport = transport
            if self._events is not None and self._was_connected:
                self._events.reconnected()
            self._was_connected = True
            self._flush()

    def _send_ahead(self, transport: asyncio.WriteTransport, *command: bytes | str | int) -> "asyncio.Future[Any]":
        """Sends a command of the checks before the commands that wait for the checks."""
        reply = self._loop.create_future()
        self._write(transport, _Batch(0, [pack_command(command)], [reply], b"%d" % next(_numbers)))  # type: ignore[arg-type]  # as above
        return reply

    def _gather(self, batch: _Batch, size: int, quiet_turns: int) -> None:
        """Called in each turn of the loop: sends the batch if it is full or has not grown for some turns."""
        if batch is not self._next:
            return  # already flushed on connect, or failed with the connection
        quiet_turns = quiet_turns + 1 if len(batch.futures) == size else 0
        if quiet_turns >= self._quiet_turns or len(batch.futures) >= _FULL_BATCH:
            self._flush()
        else:
            self._loop.call_soon(self._gather, batch, len(batch.futures), quiet_turns)

    def _flush(self) -> None:
        batch = self._next
        if batch is None or self._transport is None or self._transport.is_closing():
            return  # if the connection is lost, _drop fails the batch
        self._next = None
        if self._events is not None:
            self._events.batch_sent(len(batch.futures))
        self._write(self._transport, batch)

    def _write(self, transport: asyncio.WriteTransport, batch: _Batch) -> None:
        batch.since = self._loop.time()  # the time to connect is limited separately
        self._unanswered.append(batch)
        if batch.replicas:
            milliseconds = int(self._timeout * _WAIT_SHARE * 1000)
            batch.commands.append(pack_command(("WAIT", batch.replicas, milliseconds)))  # type: ignore[arg-type]  # as above
        # Not PING: a server whose disk is full (MISCONF) rejects PING as well as writes, but still answers reads.
        batch.commands.append(pack_command(("ECHO", batch.mark)))  # type: ignore[arg-type]  # as above
        transport.write(b"".join(batch.commands))
        if batch.rejected is None:
            batch.commands.clear()

    async def _watch(self, replies: _Replies) -> None:
        """Raises the error that ends the connection: its loss, or an overdue reply. One timer serves all calls."""
        lost = replies.lost
        while not lost.done():
            await asyncio.wait([lost], timeout=_WATCH_INTERVAL)
            if self._closed and not self._unanswered and self._next is None:
                return  # retired, and drained
            if self._unanswered and self._waited(replies) > self._timeout:
                raise TimeoutError("a reply is overdue")
        raise lost.result()

    def _waited(self, replies: _Replies) -> float:
        """Returns how long the oldest command without a reply has waited; see ``long_replies``."""
        since = self._unanswered[0].since
        return self._loop.time() - (max(since, replies.received_at) if self._long_replies else since)

    def _drop(self) -> None:
        """Closes the transport and fails all commands without a reply."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        unanswered, self._unanswered = self._unanswered, deque()
        if self._next is not None:
            unanswered.append(self._next)
            self._next = None
        for batch in unanswered:
            batch.fail(self._lost_by)


def taken_over(connection: AbstractConnection, replies: asyncio.BaseProtocol) -> asyncio.WriteTransport:
    """Connects the transport to ``replies`` after the handshake, and so bypasses the streams of redis-py.

    The streams wake a task for every piece of at most 64 KiB, and pass each reply through several coroutines.
    """
    reader, writer = cast("Any", connection)._reader, cast("Any", connection)._writer  # noqa: SLF001 - no public way
    transport: asyncio.WriteTransport = writer.transport
    if reader.at_eof() or transport.is_closing():
        raise LostError("the store closed the connection")
    transport.set_protocol(replies)
    return transport
