"""Reads the stream of all users, across lost connections and restarts of the server."""

from __future__ import annotations

from userservice._answers import check_cursor
from userservice._connection import Connection, Stream, decode
from userservice._methods import LIST_USERS_CHUNKED
from userservice._retry import Attempts
from userservice.errors import UserServiceError
from userservice.models import User, UserPage
from userservice.requests import build_request


class ChunkReader:
    """The chunks of one `list_chunked`, one at a time.

    Each `next_chunk` has a deadline of its own over all it does. The time that the consumer takes between two chunks
    does not count, and an unavailable service is tried again for that long after the last chunk that had users in it.
    Chunks without users do not extend the deadline, however many the service sends.

    Args:
        connection: The connection to read from.
        chunk_size: The most users in a chunk.
        cursor: Where to start.
        timeout: Seconds to wait for a chunk; None means the connection's own timeout.

    Raises:
        InvalidArgumentError: If chunk_size or cursor are no integers.
        ValueError: If the timeout cannot be used.
    """

    def __init__(self, connection: Connection, chunk_size: int, cursor: int, timeout: float | None) -> None:
        self._connection = connection
        self._timeout = timeout
        self._request = build_request(LIST_USERS_CHUNKED.request, {"chunk_size": chunk_size, "cursor": cursor})
        self._stream: Stream | None = None
        self._finished = False
        connection.attempts(timeout)

    async def next_chunk(self) -> UserPage | None:
        """Returns the next chunk that has users in it, or None at the end.

        Raises:
            UserServiceError: If no chunk came in time, with the last error, or the service refused the request.
        """
        attempts = self._connection.attempts(self._timeout)
        while not self._finished:
            chunk = await self._read(attempts)
            if chunk:
                return chunk
        if self._stream is not None:
            # Without its status, the service would log a complete stream as cancelled. All chunks were returned before.
            await self._connection.read_status(self._stream)
        return None

    async def _read(self, attempts: Attempts) -> UserPage:
        while True:
            try:
                if self._stream is None:
                    self._stream = self._connection.open_stream(LIST_USERS_CHUNKED, self._request)
                return self._decode(await self._connection.read(self._stream, attempts))
            except UserServiceError as error:
                self.cancel()
                await attempts.pause(error, error.__cause__)

    def _decode(self, encoded: bytes) -> UserPage:
        response = decode(LIST_USERS_CHUNKED, encoded)
        cursor = self._request.cursor
        users = User.wrap_page(response.users, cursor)
        check_cursor(users, cursor, response.next_cursor, response.total_size)
        self._finished = not response.next_cursor
        # Where the next stream starts if this one is cut.
        self._request.cursor = response.next_cursor
        return UserPage(users, next_cursor=response.next_cursor, total_size=response.total_size)

    def cancel(self) -> None:
        """Ends the RPC at once, if one runs. A reader that stops early must call this: nothing else ends the RPC."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
