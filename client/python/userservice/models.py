"""What the service returns: users, sessions, and the lists that they come in.

The objects are thin views of the decoded message. Reading a field costs an attribute access, and metadata, by far the
most expensive part, is decoded when it is first read; so a program that goes through a million users for one field
pays for one field. A view keeps the message alive that it came in, up to 1 MiB for a chunk: to keep a few users of a
long stream, keep `copy.copy(user)`, which stands alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from google.protobuf.timestamp_pb2 import Timestamp

from userservice._messages import lazy_class
from userservice.metadata import metadata_from_bytes
from userservice.v1.session_pb2 import Session as SessionMessage
from userservice.v1.user_pb2 import User as UserMessage

MessageT = TypeVar("MessageT", UserMessage, SessionMessage)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _time(timestamp: Timestamp) -> datetime:
    # Not ToDatetime or fromtimestamp of a float: integers only, so that no microsecond is lost to rounding.
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


class Record(Generic[MessageT]):
    """What `User` and `Session` have in common. Read-only, save that the dict in `metadata` is the caller's own."""

    __slots__ = ("_message", "_metadata")

    _fields: ClassVar[tuple[str, ...]]
    _message_class: ClassVar[type[Any]]

    def __init__(self, message: MessageT) -> None:
        """Wraps a message whose metadata is still encoded; see `from_bytes` for one at hand as bytes."""
        self._message: MessageT = message
        self._metadata: dict[str, Any] | None = None

    @classmethod
    def from_bytes(cls, encoded: bytes) -> Self:
        """Makes one from an encoded message, as `bytes(record)` returns it.

        Raises:
            google.protobuf.message.DecodeError: If the bytes are not such a message.
        """
        return cls(cls._message_class.FromString(encoded))

    @property
    def id(self) -> int:
        """Place in the lists. Grows with creation, is never reused, fits 53 bits. Also what cursors are made of."""
        return self._message.id

    @property
    def uuid(self) -> str:
        """Globally unique identifier made by the service: a UUID of version 7 in its canonical text form."""
        return self._message.uuid

    @property
    def user_id(self) -> str:
        """The caller's own name for the user, 1 to 256 bytes of UTF-8."""
        return self._message.user_id

    @property
    def metadata(self) -> dict[str, Any]:
        """The caller's own data: None, bool, int, float, str, list and dict. Empty if there is none.

        Decoded at the first read and kept. Changing the dict changes nothing in the service.
        """
        if self._metadata is None:
            # The message is of the twin whose metadata field is bytes, which the generated types do not know.
            self._metadata = metadata_from_bytes(cast("bytes", self._message.metadata))
        return self._metadata

    @property
    def created_at(self) -> datetime:
        """When it was added, by the service's clock: aware, in UTC, in microseconds' resolution."""
        return _time(self._message.created_at)

    @property
    def updated_at(self) -> datetime:
        """When it was last written, by the service's clock: aware, in UTC. Equal to created_at until an update."""
        return _time(self._message.updated_at)

    @property
    def etag(self) -> str:
        """Version: opaque, different after every write. For an update or delete that must not overwrite others'."""
        return self._message.etag

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields by name, times as datetime, metadata as the dict that `metadata` returns."""
        return {field: getattr(self, field) for field in self._fields}

    def __bytes__(self) -> bytes:
        return self._message.SerializeToString()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return bool(self._message == other._message)

    def __hash__(self) -> int:
        # The etag differs after every write, so equal records, and as good as only those, hash alike.
        return hash((self._message.id, self._message.etag))

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return type(self).from_bytes, (bytes(self),)


class User(Record[UserMessage]):
    """A user as the service stored it."""

    __slots__ = ()

    _fields = (
        "user_id",
        "id",
        "uuid",
        "email",
        "first_name",
        "last_name",
        "metadata",
        "created_at",
        "updated_at",
        "etag",
    )
    _message_class = lazy_class(UserMessage)

    @property
    def email(self) -> str:
        """E-mail address as it was given, at most 320 bytes; empty if there is none."""
        return self._message.email

    @property
    def first_name(self) -> str:
        """Given name, at most 256 bytes; empty if there is none."""
        return self._message.first_name

    @property
    def last_name(self) -> str:
        """Family name, at most 256 bytes; empty if there is none."""
        return self._message.last_name

    def __repr__(self) -> str:
        # Reprs end up in logs: no personal data beyond the name that the program itself uses.
        return f"<User user_id={self.user_id!r} id={self.id}>"


class Session(Record[SessionMessage]):
    """A session of a user as the service stored it."""

    __slots__ = ()

    _fields = ("session_id", "id", "uuid", "user_id", "metadata", "created_at", "updated_at", "etag")
    _message_class = lazy_class(SessionMessage)

    @property
    def session_id(self) -> str:
        """The caller's own name for the session, 1 to 256 bytes of UTF-8, unique within its user."""
        return self._message.session_id

    def __repr__(self) -> str:
        return f"<Session session_id={self.session_id!r} user_id={self.user_id!r} id={self.id}>"


class UserPage(list[User]):
    """A page or chunk of users, in the order of their ids.

    Attributes:
        next_cursor: The cursor of the next page; 0 at the end.
        total_size: How many users there are in all: for a page at the time of the call, for a chunk at the start of
            its stream.
    """

    def __init__(self, users: Iterable[User] = (), *, next_cursor: int = 0, total_size: int = 0) -> None:
        super().__init__(users)
        self.next_cursor = next_cursor
        self.total_size = total_size


class SessionPage(list[Session]):
    """A page of the sessions of one user, in the order of their ids.

    Attributes:
        next_cursor: The cursor of the next page; 0 at the end.
        total_size: How many sessions the user has in all, at the time of the call.
    """

    def __init__(self, sessions: Iterable[Session] = (), *, next_cursor: int = 0, total_size: int = 0) -> None:
        super().__init__(sessions)
        self.next_cursor = next_cursor
        self.total_size = total_size


class UserBatch(list[User]):
    """The users that were asked for by name and exist, in the order of the request.

    Attributes:
        missing_user_ids: The names for which there is no user, in the order of the request.
    """

    def __init__(self, users: Iterable[User] = (), *, missing_user_ids: Iterable[str] = ()) -> None:
        super().__init__(users)
        self.missing_user_ids = list(missing_user_ids)
