"""Sends the responses of a stream; all RPCs with a stream of responses use this loop."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from userservice_server.errors import ReaderStalledError, ServerShuttingDownError
from userservice_server.transport.call import Call
from userservice_server.transport.deadlines import Deadline, DeadlinePassedError, Deadlines
from userservice_server.transport.drain import Drain
from userservice_server.transport.started import Started
from userservice_server.wire.records import cursor_of

Responses = Iterator[tuple[bytes, bytes, int]]
"""Encoded responses that are made without waiting.

Each comes with its encoded next_cursor, which is empty in the last response, and its number of users.
"""


@dataclass(frozen=True, slots=True)
class Streaming:
    """Sends streams, with the settings that all streams of a process share.

    Attributes:
        drain: shows whether the server is shutting down.
        deadlines: checks the deadline of each write.
        stall_timeout: maximum seconds that a client may take to read a response.
    """

    drain: Drain
    deadlines: Deadlines
    stall_timeout: float

    async def send(self, call: Call, ranges: AsyncGenerator[Responses]) -> None:
        """Sends all responses of a call; adds their number to the access log.

        If the client reads slowly, the stream waits (back-pressure by HTTP/2 flow control).

        Args:
            call: the call to answer.
            ranges: yields the responses for each range that is read from the store; always closed at the end.

        Raises:
            ReaderStalledError: the client did not read a response for ``stall_timeout``.
            ServerShuttingDownError: the server shuts down; raised between two responses.
        """
        # Not with the first write, because grpc cannot track whether a cancelled first write has sent the initial
        # metadata.
        await call.context.send_initial_metadata(())
        progress = _Progress()
        try:
            with Deadline(self.deadlines, self.stall_timeout) as stall:
                stall.pause()  # runs only during writes: the time that the store takes does not count
                async with aclosing(ranges):
                    async for responses in ranges:
                        await self._send_range(call, responses, stall, progress)
        except DeadlinePassedError:
            next_cursor = cursor_of(progress.cursor)
            raise ReaderStalledError("stream closed: the client stopped reading", next_cursor=next_cursor) from None
        finally:
            call.log_fields["chunks"] = progress.sent
            call.cursor = progress.cursor

    async def _send_range(self, call: Call, responses: Responses, stall: Deadline, progress: "_Progress") -> None:
        upcoming = next(responses, None)
        while upcoming is not None:
            response, progress.cursor, users = upcoming
            stall.restart()
            writing = Started(call.context.write(response))
            # Makes the next response while grpc writes this one: 14 % more throughput with chunks of 100.
            upcoming = next(responses, None)
            await writing
            stall.pause()
            progress.sent += 1
            call.count_sent(users)
            if self.drain.started and progress.cursor:
                next_cursor = cursor_of(progress.cursor)
                raise ServerShuttingDownError("the server is shutting down; resume the stream", next_cursor=next_cursor)


@dataclass(slots=True)
class _Progress:
    """The progress of a stream.

    Attributes:
        sent: number of responses that were sent.
        cursor: encoded next_cursor of the last response.
    """

    sent: int = 0
    cursor: bytes = b""
