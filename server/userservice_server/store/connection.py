"""One connection to Redis that all calls of a process share.

All commands of one turn of the event loop leave in one write, and the replies are matched to them in order. Nobody
borrows the connection, so a cancelled call leaves nothing behind: its reply is read in its turn and dropped, and can
never be taken for the answer to somebody else's question.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from userservice_server.store.failures import translated, unavailable

RECONNECT_PAUSE = 0.25  # seconds between attempts; calls in between fail at once instead of piling up
_WATCH_INTERVAL = 0.05  # seconds between looks at the oldest unanswered command


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
        self._unanswered: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._outbox_filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._lost_by: BaseException | None = None
        self._closed = False

    def send(self, *command: bytes | str | int) -> "asyncio.Future[Any]":
        """Sends a command with this turn's others; returns a future of the reply, as bytes undecoded.

        The future raises StoreUnavailableError or StoreFullError, and ResponseError for what only a bug can cause.
        """
        reply = self._loop.create_future()
        now = self._loop.time()
        if self._task is None:
            if self._closed or now < self._retry_at:
                reply.set_exception(unavailable(self._lost_by))
                return reply
            self._task = self._loop.create_task(self._live())
        if not self._outbox:
            self._outbox_filled.set()
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
        """Throws the connection away: what it answers can no longer be trusted."""
        if self._task is not None:
            self._task.cancel()

    async def _live(self) -> None:
        """One connection from its making to its end."""
        connection = self._make_connection()
        self._lost_by = None
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(connection))
                group.create_task(self._read(connection))
                group.create_task(self._watch())
        except* (RedisError, OSError, TimeoutError) as lost:
            self._lost_by = lost.exceptions[0]
        finally:
            self._task = None
            self._retry_at = self._loop.time() + RECONNECT_PAUSE
            self._fail_unanswered()
            await connection.disconnect(nowait=True)

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled.clear()
            commands, self._outbox = self._outbox, []
            await connection.send_packed_command(commands, check_health=False)

    async def _read(self, connection: AbstractConnection) -> None:
        unanswered = self._unanswered
        while True:
            reply: Any
            try:
                reply = await connection.read_response(disable_decoding=True)
                failed = False
            except ResponseError as error:
                reply = translated(error)
                failed = True
            if not unanswered:
                raise InvalidResponse("a reply came that nobody asked for")
            future, _ = unanswered.popleft()
            if future.done():  # its caller was cancelled
                continue
            if failed:
                future.set_exception(reply)
            else:
                future.set_result(reply)

    async def _watch(self) -> None:
        """Gives the connection up when a reply is overdue: one timer for all calls instead of one each."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            if self._unanswered and self._loop.time() - self._unanswered[0][1] > self._timeout:
                raise TimeoutError("a reply is overdue")

    def _fail_unanswered(self) -> None:
        unanswered, self._unanswered = self._unanswered, deque()
        self._outbox.clear()
        self._outbox_filled.clear()
        for future, _ in unanswered:
            if not future.done():
                future.set_exception(unavailable(self._lost_by))
                future.exception()  # seen here, in case nobody awaits it any more
