"""Reading the stream of all users, over cuts of the connection and restarts of the server."""

from __future__ import annotations

import grpc

from userservice._connection import Connection, decode
from userservice._methods import LIST_USERS_CHUNKED
from userservice.errors import InternalError, UserServiceError
from userservice.models import User, UserPage
from userservice.requests import build_request


class ChunkReader:
    """The chunks of one `list_chunked`, one at a time.

    Each `next_chunk` has a deadline of its own over all it does, so the time that the consumer takes between two
    chunks does not count, and a service that is away is tried again for that long after the last chunk that came.

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
        self._call: grpc.aio.UnaryStreamCall[bytes, bytes] | None = None
        self._finished = False
        connection.attempts(timeout)

    async def next_chunk(self) -> UserPage | None:
        """Returns the next chunk that has users in it, or None at the end.

        Raises:
            UserServiceError: If no chunk came in time, with the last error, or the service refused the request.
        """
        while not self._finished:
            chunk = await self._read()
            if chunk:
                return chunk
        return None

    async def _read(self) -> UserPage:
        attempts = self._connection.attempts(self._timeout)
        while True:
            try:
                if self._call is None:
                    self._call = self._connection.open_stream(LIST_USERS_CHUNKED, self._request)
                return self._decode(await self._connection.read(self._call, attempts))
            except UserServiceError as error:
                self.cancel()
                await attempts.pause(error, error.__cause__)

    def _decode(self, encoded: bytes) -> UserPage:
        response = decode(LIST_USERS_CHUNKED, encoded)
        chunk = UserPage(map(User, response.users), next_cursor=response.next_cursor, total_size=response.total_size)
        self._check_order(chunk)
        self._finished = not chunk.next_cursor
        # Where the next stream starts, should this one be cut.
        self._request.cursor = chunk.next_cursor
        return chunk

    def _check_order(self, chunk: UserPage) -> None:
        """Refuses a chunk that would show users twice, or send the reader in circles."""
        position = self._request.cursor
        if chunk and not position < chunk[0].id <= chunk[-1].id:
            raise InternalError(f"the service sent user {chunk[0].id} in a chunk that starts after {position}")
        earliest = chunk[-1].id if chunk else position + 1
        if chunk.next_cursor and chunk.next_cursor < earliest:
            raise InternalError(f"the service sent cursor {chunk.next_cursor} where {earliest} is the least possible")

    def cancel(self) -> None:
        """Ends the RPC at once, if one runs. To be called by whoever stops reading, for nothing else would end it."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
