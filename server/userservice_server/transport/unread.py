"""Bounds the memory of unary responses that their callers have not read yet.

grpc keeps a response in memory until its client reads it, without a time limit: the call no longer counts as running,
and a single connection can have a thousand such responses.
"""

from collections import Counter
from typing import Any

from userservice_server.errors import OverloadedError
from userservice_server.transport.admission import RetryDelays, connection_of
from userservice_server.transport.call import Call

_MOST_BYTES, _MOST_BYTES_PER_CONNECTION = 256 << 20, 64 << 20  # a response is always allowed if it is the only one
_COUNTED_BYTES = 4 << 10  # smaller responses take no more memory than the call itself


class Counted:
    """An encoded response that counts as unread for as long as grpc keeps it: until it is sent, or cannot be sent."""

    __slots__ = ("_connection", "_unread", "encoded")

    def __init__(self, unread: "UnreadResponses", connection: str, encoded: bytes) -> None:
        self.encoded = encoded
        self._unread = unread
        self._connection = connection

    def __del__(self) -> None:
        """Stops counting the response. A done callback of grpc would keep the call in a reference cycle."""
        self._unread.remove(self._connection, len(self.encoded))


class UnreadResponses:
    """The unary responses of a process that are not sent yet."""

    def __init__(self) -> None:
        self._bytes = 0
        self._bytes_on: Counter[str] = Counter()
        self._delays = RetryDelays()

    def check(self, call: Call, size: int = 0) -> None:
        """Raises OverloadedError if too many bytes of responses are unread; adds the limit to the access log."""
        if self._bytes + size <= _MOST_BYTES_PER_CONNECTION:
            return
        connection = connection_of(call.context)
        on_connection = self._bytes_on[connection] if connection else 0  # not known for clients of a Unix socket
        if on_connection and on_connection + size > _MOST_BYTES_PER_CONNECTION:
            raise self._exceeded(call, "unread_bytes_per_connection", _MOST_BYTES_PER_CONNECTION)
        if self._bytes and self._bytes + size > _MOST_BYTES:
            raise self._exceeded(call, "unread_bytes", _MOST_BYTES)

    def add(self, call: Call, encoded: bytes) -> Counted | None:
        """Counts a large response and returns the object for grpc to send; returns None for a small response."""
        if len(encoded) < _COUNTED_BYTES:
            return None
        connection = connection_of(call.context)
        self._bytes += len(encoded)
        self._bytes_on[connection] += len(encoded)
        return Counted(self, connection, encoded)

    def _exceeded(self, call: Call, name: str, limit: int) -> OverloadedError:
        call.log_fields["limit"] = name
        where = " on this connection" if name.endswith("connection") else ""
        text = f"too many bytes of responses{where} are unread: the limit is {limit}; read them, and retry later"
        return OverloadedError(text, self._delays.next(), limit=name)

    def remove(self, connection: str, size: int) -> None:
        """Stops counting a response."""
        self._bytes -= size
        self._bytes_on[connection] -= size
        if not self._bytes_on[connection]:
            del self._bytes_on[connection]


def encoded(response: Any) -> bytes:
    """Serializes a response, Counted or bytes, for grpc."""
    data: bytes = response.encoded if isinstance(response, Counted) else response
    return data
