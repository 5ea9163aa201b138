"""Reads the stream of all users and resumes it after lost connections and restarts of the server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from userservice._answers import check_cursor, check_end
from userservice._connection import Connection, Stream, decode
from userservice._methods import LIST_USERS_CHUNKED
from userservice._retry import Attempts
from userservice._transport import RawStream
from userservice.errors import UserServiceError
from userservice.models import User, UserPage, UserScanPart
from userservice.requests import build_request


class ChunkReader:
    """Reads the chunks of one `list_chunked`.

    Each call of `next_chunk` has its own deadline, which includes reconnecting and retries. The time between two calls
    of `next_chunk` does not count. Chunks without users do not extend the deadline, regardless of their number, unless
    the request has a filter.

    Args:
        connection: The connection to read from.
        fields: The fields of the request by name. The cursor is the id after which to start.
        timeout: Seconds to wait for a chunk; None means the timeout of the connection.
        part: The part to read instead of all users; takes the place of the cursor.

    Raises:
        InvalidArgumentError: If a field has a wrong type.
        ValueError: If the timeout is invalid.

    Attributes:
        part: What remains of the part; None if all users are read.
    """

    def __init__(
        self,
        connection: Connection,
        fields: Mapping[str, object],
        timeout: float | None,
        part: UserScanPart | None = None,
    ) -> None:
        self.part = part
        self._connection = connection
        self._timeout = timeout
        if part is not None:
            fields = {**fields, **part._asdict()}
        self._request = build_request(LIST_USERS_CHUNKED.request, fields)
        self._stream: Stream[RawStream] | None = None
        self._finished = False
        connection.attempts(timeout)

    async def next_chunk(self) -> UserPage | None:
        """Returns the next chunk that contains users, or None at the end.

        Raises:
            UserServiceError: If no chunk arrived before the deadline, or the service rejected the request.
        """
        attempts = self._connection.attempts(self._timeout)
        while not self._finished:
            chunk = await self._read(attempts)
            if chunk:
                return chunk
            if self._request.filter:  # the service has examined many users, and goes on
                attempts = self._connection.attempts(self._timeout)
        if self._stream is not None:
            # If the status is not read, the service logs a complete stream as cancelled.
            await self._connection.read_status(self._stream)
        return None

    async def _read(self, attempts: Attempts) -> UserPage:
        while True:
            try:
                if self._stream is None:
                    self._stream = await self._connection.open_stream(LIST_USERS_CHUNKED, self._request, attempts)
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
        # If this stream is cut, the next stream starts here.
        self._request.cursor = response.next_cursor
        page = UserPage(users, next_cursor=response.next_cursor, total_size=response.total_size)
        if self.part is not None:
            check_end(users, self.part.end_cursor)
            page.part = self.part = self.part._replace(cursor=response.next_cursor or self.part.end_cursor)
        return page

    def cancel(self) -> None:
        """Ends the running RPC immediately. Must be called at the end, because nothing else ends an unread stream."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None


async def each_user(reader: ChunkReader) -> AsyncGenerator[User, None]:
    """Yields the users of all chunks one by one. Cancels the RPC if the loop is left."""
    try:
        while (chunk := await reader.next_chunk()) is not None:
            for user in chunk:
                yield user
    finally:
        reader.cancel()
