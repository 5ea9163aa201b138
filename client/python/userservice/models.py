"""The models that the client returns: users, sessions, and the lists that contain them.

Models that come from the service are thin views of the decoded message. Reading a field costs an attribute access, and
metadata, by far the most expensive field to decode, is decoded at its first read. A program that reads one field of a
million users therefore spends no time on decoding metadata. A view keeps its whole response in memory, up to 1 MiB for
a chunk. To keep a few users of a long stream, keep `copy.copy(user)`, which is independent of the response.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar, cast

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from userservice._json_text import UNEXPECTED, user_text
from userservice._messages import lazy_class
from userservice._times import EPOCH, fill_timestamp, from_duration, from_timestamp
from userservice.errors import InternalError
from userservice.metadata import metadata_from_bytes, metadata_to_bytes
from userservice.v1.session_pb2 import Session as SessionMessage
from userservice.v1.user_pb2 import User as UserMessage

MessageT = TypeVar("MessageT", UserMessage, SessionMessage)
RecordT = TypeVar("RecordT")

_DECODED = frozenset(
    {"metadata", "created_at", "updated_at", "idle_ttl", "max_expire_time", "expire_time", "last_seen_at"}
)
"""The fields whose values are converted from the message."""


def _fill_timestamp(timestamp: Timestamp, time: datetime, field: str) -> None:
    if time.tzinfo is None:
        raise ValueError(f"{field} needs a time zone")
    fill_timestamp(timestamp, time)


def _to_text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return _to_text(value)
    return value.total_seconds() if isinstance(value, timedelta) else value


def _check_mode(mode: str) -> None:
    if mode not in ("python", "json"):
        raise ValueError(f'mode must be "python" or "json", not {mode!r}')


def _core_schema(kind: type[Any]) -> Any:
    """Returns the pydantic schema of a class that has `to_dict`."""
    # Only pydantic calls this function, so pydantic_core is installed.
    from pydantic_core import core_schema  # noqa: PLC0415

    def to_dict(value: Any) -> dict[str, Any]:
        made: dict[str, Any] = value.to_dict(mode="json")
        return made

    serialization = core_schema.plain_serializer_function_ser_schema(
        to_dict, return_schema=core_schema.dict_schema(), info_arg=False, when_used="unless-none"
    )
    return core_schema.is_instance_schema(kind, serialization=serialization)


def _object_schema(kind: type[Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "title": kind.__name__, "properties": properties, "required": list(properties)}


def _read_in_c(kind: type[RecordT]) -> type[RecordT]:
    """Replaces the getters of plain fields with equivalent getters written in C, which take 25 % less time."""
    for name, getter in tuple(vars(kind).items()):
        if isinstance(getter, property) and name not in _DECODED:
            setattr(kind, name, property(attrgetter(f"_message.{name}"), doc=getter.__doc__))
    return kind


@_read_in_c
class Record(Generic[MessageT]):
    """The base class of `User` and `Session`.

    The fields are read-only; `copy(**changes)` returns a changed copy. The program can change the dict in `metadata`;
    this changes nothing in the service. Equality, copies, pickles, `to_dict` and `bytes` use the current content of the
    dict. Equality ignores the order of the keys.
    """

    __slots__ = ("_message", "_metadata")

    _fields: ClassVar[tuple[str, ...]]
    _message_class: ClassVar[type[Any]]
    # An instance of lazy_class: its metadata field is bytes, although the generated type declares a Struct.
    _message: MessageT
    # Set at the first read of metadata.
    _metadata: dict[str, Any]

    def _fill(self, fields: Mapping[str, Any]) -> None:
        message = self._message_class()
        for field, value in fields.items():
            if field == "metadata":
                message.metadata = metadata_to_bytes(value)
            elif isinstance(value, datetime):
                _fill_timestamp(getattr(message, field), value, field)
            elif isinstance(value, timedelta):
                getattr(message, field).FromTimedelta(value)
            elif value is None and field in _DECODED:
                continue  # the time is absent
            else:
                setattr(message, field, value)
        self._message = message

    @classmethod
    def wrap(cls, message: MessageT) -> Self:
        """Creates a model from a decoded message whose metadata is still encoded. For the client's own use."""
        record = cls.__new__(cls)
        record._message = message
        return record

    @classmethod
    def wrap_all(cls, messages: Iterable[MessageT]) -> list[Self]:
        """Creates models from several messages; see `wrap`. For the client's own use."""
        return [cls.wrap(message) for message in messages]

    @classmethod
    def wrap_page(cls, messages: Iterable[MessageT], cursor: int) -> list[Self]:
        """Creates the models of a page or chunk, and checks the order of its ids. For the client's own use.

        Raises:
            InternalError: If an id is not larger than the cursor and all previous ids. A reader could then receive a
                record twice.
        """
        # Bulk readers spend a third of their time in this method, so the loop calls no Python function for each record.
        records: list[Self] = []
        make, last = object.__new__, cursor
        for message in messages:
            current = message.id
            if current <= last:
                raise InternalError(f"the service returned ids that do not increase from the cursor {cursor}")
            last = current
            record = make(cls)
            record._message = message
            records.append(record)
        return records

    @classmethod
    def from_bytes(cls, encoded: bytes) -> Self:
        """Creates a model from an encoded message, such as the result of `bytes(model)`.

        Raises:
            google.protobuf.message.DecodeError: If the bytes are not a valid message.
        """
        return cls.wrap(cls._message_class.FromString(encoded))

    @property
    def id(self) -> int:
        """Number that orders the records in lists. A cursor is the id of a record.

        A record that is added later has a larger id. An id is never reused and fits into 53 bits.
        """
        return self._message.id

    @property
    def uuid(self) -> str:
        """Globally unique identifier generated by the service: a UUID of version 7 in its canonical text form."""
        return self._message.uuid

    @property
    def user_id(self) -> str:
        """The user's key, chosen by the caller, 1 to 256 bytes of UTF-8."""
        return self._message.user_id

    @property
    def metadata(self) -> dict[str, Any]:
        """JSON object with the caller's own data; empty if the record has no metadata.

        The values are None, bool, int, float, str, list and dict. The keys are sorted by code point, at every level.
        The metadata is decoded at the first read; later reads return the same dict.

        Raises:
            InternalError: If the client cannot decode the metadata, for example because its nesting is too deep.
        """
        try:
            return self._metadata
        except AttributeError:
            self._metadata = self._decode_metadata()
            return self._metadata

    def _decode_metadata(self) -> dict[str, Any]:
        try:
            return metadata_from_bytes(cast("bytes", self._message.metadata))
        except (DecodeError, RecursionError) as error:
            raise InternalError("cannot decode the metadata that the service returned") from error

    @property
    def created_at(self) -> datetime:
        """Time at which the record was added, by the service's clock: an aware datetime in UTC, with microseconds.

        Raises:
            InternalError: If the service sent a time outside the years 1 to 9999, which datetime cannot represent.
        """
        return from_timestamp(self._message.created_at, "created_at")

    @property
    def updated_at(self) -> datetime:
        """Time of the last write by the service's clock; see `created_at`. Equal to created_at until an update."""
        return from_timestamp(self._message.updated_at, "updated_at")

    @property
    def etag(self) -> str:
        """Opaque version; each write but a touch changes it. An update or delete with an outdated etag is rejected."""
        return self._message.etag

    def to_dict(self, mode: Literal["python", "json"] = "python") -> dict[str, Any]:
        """Returns all fields by name.

        Args:
            mode: "python": times are datetime objects, durations are timedelta objects. "json": times are RFC 3339
                text in UTC with microseconds, durations are numbers of seconds, so that `json.dumps` accepts the
                result.

        Raises:
            ValueError: If the mode is neither "python" nor "json".
        """
        _check_mode(mode)
        values = dict(self)
        if mode == "json":
            return {name: _to_json(value) for name, value in values.items()}
        return values

    def to_json(self) -> str:
        """Returns `to_dict(mode="json")` as JSON text on one line."""
        return json.dumps(self.to_dict(mode="json"), ensure_ascii=False, allow_nan=False)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yields all fields as pairs of name and value, so that `dict(model)` works."""
        return ((field, getattr(self, field)) for field in self._fields)

    def copy(self, **changes: Any) -> Self:
        """Returns a copy that shares nothing with this model, with some fields changed.

        Args:
            **changes: New values by field name.

        Raises:
            TypeError: If a name is not a field, or a value has the wrong type.
            ValueError: If a time has no time zone, or a google.protobuf.Struct cannot represent the metadata.
        """
        unknown = sorted(changes.keys() - set(self._fields))
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(unknown)}")
        twin = type(self).wrap(self._message_class())
        twin._message.CopyFrom(self._message)
        if "metadata" not in changes and hasattr(self, "_metadata"):
            twin._metadata = deepcopy(self._metadata)
        if changes:
            changed = type(self).__new__(type(self))
            changed._fill(changes)
            for field in changes:
                twin._message.ClearField(cast("Any", field))
            twin._message.MergeFrom(changed._message)
        return twin

    # copy.replace of Python 3.13 calls this method.
    __replace__ = copy

    def __bytes__(self) -> bytes:
        # Compared as text, because True, 1 and 1.0 are equal in Python but different in JSON.
        if not hasattr(self, "_metadata") or repr(self._metadata) == repr(self._decode_metadata()):
            return self._message.SerializeToString()
        return self.copy(metadata=self._metadata)._message.SerializeToString()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        if not hasattr(self, "_metadata") and not hasattr(other, "_metadata") and self._message == other._message:
            return True
        return self._plain_fields() == other._plain_fields() and self.metadata == other.metadata

    def _plain_fields(self) -> list[Any]:
        return [getattr(self._message, field) for field in self._fields if field != "metadata"]

    def __hash__(self) -> int:
        # The id and etag of a model never change, so equal models have equal hashes. Every write changes the etag, so
        # collisions between versions of a record are very unlikely.
        return hash((self._message.id, self._message.etag))

    def __reduce__(self) -> tuple[Any, tuple[type[Self], bytes, dict[str, Any] | None]]:
        return _restore, (type(self), self._message.SerializeToString(), getattr(self, "_metadata", None))

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        """Describes the type to pydantic, so that pydantic fields and FastAPI responses can have this type.

        pydantic accepts instances of the model, and serialises them with `to_dict(mode="json")`.
        """
        return _core_schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        """Describes the JSON form to pydantic, for FastAPI's API documentation."""
        kinds: dict[str, dict[str, Any]] = {
            "id": {"type": "integer"},
            "metadata": {"type": "object"},
            "created_at": {"type": "string", "format": "date-time"},
            "updated_at": {"type": "string", "format": "date-time"},
            "idle_ttl": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        }
        maybe = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}
        kinds |= dict.fromkeys(("max_expire_time", "expire_time", "last_seen_at"), maybe)
        return _object_schema(cls, {field: kinds.get(field, {"type": "string"}) for field in cls._fields})


def _restore(kind: type[Record[Any]], encoded: bytes, metadata: dict[str, Any] | None) -> Record[Any]:
    record = kind.from_bytes(encoded)
    if metadata is not None:
        record._metadata = metadata
    return record


@_read_in_c
class User(Record[UserMessage]):
    """A user as stored by the service.

    Tests of programs that use the client can create users with keyword arguments. The values are not checked against
    the service's limits. If `updated_at` is absent, it is equal to `created_at`.
    """

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

    def __init__(
        self,
        *,
        user_id: str = "",
        id: int = 0,  # noqa: A002 - the field's name
        uuid: str = "",
        email: str = "",
        first_name: str = "",
        last_name: str = "",
        metadata: Mapping[str, Any] | None = None,
        created_at: datetime = EPOCH,
        updated_at: datetime | None = None,
        etag: str = "",
    ) -> None:
        """Creates a user.

        Raises:
            TypeError: If a value has the wrong type.
            ValueError: If a time has no time zone, or a google.protobuf.Struct cannot represent the metadata.
        """
        self._fill(
            {
                "user_id": user_id,
                "id": id,
                "uuid": uuid,
                "email": email,
                "first_name": first_name,
                "last_name": last_name,
                "metadata": metadata or {},
                "created_at": created_at,
                "updated_at": created_at if updated_at is None else updated_at,
                "etag": etag,
            }
        )

    def to_json(self) -> str:
        """Returns `to_dict(mode="json")` as JSON text on one line."""
        if not hasattr(self, "_metadata"):
            try:
                return user_text(self._message)
            except UNEXPECTED:  # the slower way below supports all input, or raises an error with the reason
                pass
        return super().to_json()

    @property
    def email(self) -> str:
        """E-mail address, not parsed, at most 320 bytes; empty if there is none."""
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
        # Programs log reprs, so the text contains no personal data except the user_id.
        return f"<User user_id={self.user_id!r} id={self.id}>"


@_read_in_c
class Session(Record[SessionMessage]):
    """A session of a user as stored by the service. The arguments are for tests; see `User`."""

    __slots__ = ()

    _fields = (
        "session_id",
        "id",
        "uuid",
        "user_id",
        "metadata",
        "created_at",
        "updated_at",
        "etag",
        "idle_ttl",
        "max_expire_time",
        "expire_time",
        "last_seen_at",
    )
    _message_class = lazy_class(SessionMessage)

    def __init__(
        self,
        *,
        session_id: str = "",
        id: int = 0,  # noqa: A002 - the field's name
        uuid: str = "",
        user_id: str = "",
        metadata: Mapping[str, Any] | None = None,
        created_at: datetime = EPOCH,
        updated_at: datetime | None = None,
        etag: str = "",
        idle_ttl: timedelta | None = None,
        max_expire_time: datetime | None = None,
        expire_time: datetime | None = None,
        last_seen_at: datetime | None = None,
    ) -> None:
        """Creates a session; see `User`."""
        self._fill(
            {
                "session_id": session_id,
                "id": id,
                "uuid": uuid,
                "user_id": user_id,
                "metadata": metadata or {},
                "created_at": created_at,
                "updated_at": created_at if updated_at is None else updated_at,
                "etag": etag,
                "idle_ttl": idle_ttl,
                "max_expire_time": max_expire_time,
                "expire_time": expire_time,
                "last_seen_at": last_seen_at,
            }
        )

    @property
    def idle_ttl(self) -> timedelta | None:
        """Time without a touch after which the session expires; None if touches do not extend the session."""
        return from_duration(self._message.idle_ttl) if self._message.HasField("idle_ttl") else None

    @property
    def max_expire_time(self) -> datetime | None:
        """Time at which the session expires even if it is touched; None if there is no such time."""
        return self._optional_time("max_expire_time")

    @property
    def expire_time(self) -> datetime | None:
        """Time at which the session expires unless a touch extends it before; None if the session does not expire."""
        return self._optional_time("expire_time")

    @property
    def last_seen_at(self) -> datetime | None:
        """Time at which the session was added or last touched; None if it never had an expiry and was never touched."""
        return self._optional_time("last_seen_at")

    def _optional_time(self, field: Literal["max_expire_time", "expire_time", "last_seen_at"]) -> datetime | None:
        return from_timestamp(getattr(self._message, field), field) if self._message.HasField(field) else None

    @property
    def session_id(self) -> str:
        """The session's key, chosen by the caller, 1 to 256 bytes of UTF-8, unique among the sessions of its user."""
        return self._message.session_id

    def __repr__(self) -> str:
        return f"<Session session_id={self.session_id!r} user_id={self.user_id!r} id={self.id}>"


AnyRecordT = TypeVar("AnyRecordT", User, Session)


class RecordList(list[AnyRecordT]):
    """Base class of `UserPage`, `SessionPage` and `UserBatch`: a list of models that has further fields."""

    _record_class: ClassVar[type[Any]]
    _records_field: ClassVar[str]  # the name of the list in the JSON form

    def to_dict(self, mode: Literal["python", "json"] = "python") -> dict[str, Any]:
        """Returns a dict with a list of the records, each converted by its `to_dict`, and the further fields.

        Args:
            mode: "python" or "json"; see `User.to_dict`.

        Raises:
            ValueError: If the mode is neither "python" nor "json".
        """
        _check_mode(mode)
        further = {name: getattr(self, name) for name in self._further_fields()}
        return {self._records_field: [record.to_dict(mode) for record in self], **further}

    def to_json(self) -> str:
        """Returns `to_dict(mode="json")` as JSON text on one line."""
        return json.dumps(self.to_dict(mode="json"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        """Describes the type to pydantic; see `User`."""
        return _core_schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """Describes the JSON form to pydantic, for FastAPI's API documentation."""
        records = {"type": "array", "items": cls._record_class.__get_pydantic_json_schema__(schema, handler)}
        return _object_schema(cls, {cls._records_field: records, **cls._further_fields()})

    @classmethod
    def _further_fields(cls) -> dict[str, Any]:
        return {"next_cursor": {"type": "integer"}, "total_size": {"type": "integer"}}


class UserScanPart(NamedTuple):
    """A part of all users, from `plan_user_scan`: the users of one partition above `cursor`, up to `end_cursor`.

    `partition` and `end_cursor` together identify a part. `json.dumps` writes a part as a list of three integers, and
    `list_chunked` accepts such lists.

    Attributes:
        partition: Number of the partition. It also identifies the number of partitions of the store.
        cursor: The part starts after this id. After a chunk, this is the last id of the chunk.
        end_cursor: The last id that the part can contain.
    """

    partition: int
    cursor: int
    end_cursor: int


class UserPage(RecordList[User]):
    """A page or chunk of users, ordered by id. Its JSON form is an object with the users in `users`.

    Attributes:
        next_cursor: The cursor of the next page; 0 at the end. In a chunk of a part, the end of the part.
        total_size: Number of all users. In a page, at the time of the call; in a chunk, at the start of the stream. In
            a chunk of a part, the number of the users of its partition.
        part: In a chunk of a part, what remains of this part after the chunk; at the end of the part, `cursor` is equal
            to `end_cursor`. None in other pages and chunks.
        remaining: In a chunk of a part, what remains of all parts of the `list_chunked` after the chunk. To continue
            later, call `list_chunked` with it as `parts`. Empty in other pages and chunks.
    """

    _record_class = User
    _records_field = "users"

    def __init__(self, users: Iterable[User] = (), *, next_cursor: int = 0, total_size: int = 0) -> None:
        super().__init__(users)
        self.next_cursor = next_cursor
        self.total_size = total_size
        self.part: UserScanPart | None = None
        self.remaining: list[UserScanPart] = []


class SessionPage(RecordList[Session]):
    """A page of the sessions of one user, ordered by id. Its JSON form is an object with the sessions in `sessions`.

    Attributes:
        next_cursor: The cursor of the next page; 0 at the end.
        total_size: Number of all sessions of the user at the time of the call.
    """

    _record_class = Session
    _records_field = "sessions"

    def __init__(self, sessions: Iterable[Session] = (), *, next_cursor: int = 0, total_size: int = 0) -> None:
        super().__init__(sessions)
        self.next_cursor = next_cursor
        self.total_size = total_size


class UserBatch(RecordList[User]):
    """The requested users that exist, in the order of the request.

    Its JSON form is an object with the users in `users`.

    Attributes:
        missing_user_ids: The requested user_ids without a user, in the order of the request.
    """

    _record_class = User
    _records_field = "users"

    def __init__(self, users: Iterable[User] = (), *, missing_user_ids: Iterable[str] = ()) -> None:
        super().__init__(users)
        self.missing_user_ids = list(missing_user_ids)

    @classmethod
    def _further_fields(cls) -> dict[str, Any]:
        return {"missing_user_ids": {"type": "array", "items": {"type": "string"}}}
