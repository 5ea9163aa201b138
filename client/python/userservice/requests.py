"""Converts the arguments of a call to its request message.

The client checks only what the service cannot check: unknown fields, values of a wrong type, and metadata that a Struct
cannot represent. The service checks all other rules, such as lengths and required fields, so that each rule is
implemented once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from itertools import islice
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from userservice._times import fill_timestamp
from userservice.errors import FieldViolation, InvalidArgumentError
from userservice.metadata import fill_struct, is_unicode, printable

RequestT = TypeVar("RequestT", bound="Message")


_MOST_SECONDS = 315_576_000_000
"""The range of google.protobuf.Duration: 10 000 years."""

MOST_ITEMS = 100_000
"""Maximum number of items that the client reads from an iterable, so that it rejects an endless iterable.

Every list in a valid request is shorter.
"""


class Unchecked:
    """A type for values that type checkers know only as Any, such as the values of a `dict[str, Any]`.

    Type checkers accept `dict[str, Any]` for `Mapping[str, Unchecked]`, because Any is compatible with everything. They
    do not accept a dict display, because its values have other types. Therefore the fields of `add({"userid": "a"})`
    are checked, and a variable of type `dict[str, Any]` is accepted.
    """


UncheckedFields: TypeAlias = Mapping[str, Unchecked]
"""Fields by name that type checkers cannot check, such as a `dict[str, Any]`."""


View: TypeAlias = Literal["FULL", "BASIC", "ID"]
"""The fields that a read returns: FULL: all fields (the default). BASIC: all except metadata. ID: only keys and id.

Fields that are not in the view are empty in the models; times are 1970.
"""


OrderBy: TypeAlias = Literal["id", "id desc"]
"""The order of a list of users: "id" is the order of creation, and "id desc" lists the newest users first."""


class AddUserOptions(TypedDict, total=False):
    """The optional fields of `AddUserFields`."""

    email: str | None
    """E-mail address, not parsed, at most 320 bytes."""
    first_name: str | None
    """Given name, at most 256 bytes."""
    last_name: str | None
    """Family name, at most 256 bytes."""
    metadata: Mapping[str, Any] | None
    """JSON object with the caller's own data, at most 16 levels deep and 64 KiB encoded.

    Its values are None, bool, int within ±2^53, float, str, list, tuple or mapping.
    """
    request_id: str | None
    """Idempotency key of the write, a UUID; the manager generates one if it is absent.

    If the same request is sent again with the same request_id within 10 minutes, it is applied only once.
    """


class AddUserFields(AddUserOptions):
    """The fields of a request of `UserManager.add`. A field with the value None is treated as absent."""

    user_id: str
    """Key of the new user. Required. 1 to 256 bytes of UTF-8, no control characters, no leading or trailing white
    space."""


class UpdateUserOptions(TypedDict, total=False):
    """The optional fields of `UpdateUserFields`."""

    email: str | None
    """New e-mail address; empty clears it."""
    first_name: str | None
    """New given name; empty clears it."""
    last_name: str | None
    """New family name; empty clears it."""
    metadata: Mapping[str, Any] | None
    """Changes to the metadata, merged by RFC 7396 (JSON Merge Patch): a key with the value None is removed."""
    update_mask: Iterable[str] | None
    """The fields to replace as a whole: `email`, `first_name`, `last_name`, `metadata`, or `*` for all of them."""
    etag: str | None
    """The etag that the caller expects. If the user has another etag, the write is rejected."""
    request_id: str | None
    """Idempotency key of the write, a UUID; see `AddUserOptions.request_id`."""
    allow_missing: bool | None
    """Whether to add the user if it does not exist. The new user gets all fields of the request.

    With an etag, a missing user is an error.
    """


class UpdateUserFields(UpdateUserOptions):
    """The fields of a request of `UserManager.update`. A field that is absent or None is not changed."""

    user_id: str
    """user_id of the user to update. Required."""


class AddSessionOptions(TypedDict, total=False):
    """The optional fields of `AddSessionFields`."""

    metadata: Mapping[str, Any] | None
    """JSON object with the caller's own data; see `AddUserOptions.metadata`."""
    request_id: str | None
    """Idempotency key of the write, a UUID; see `AddUserOptions.request_id`."""
    expire_time: datetime | None
    """Time at which the session expires, with a time zone: in the future, before the year 2200. It excludes `ttl`."""
    ttl: timedelta | float | None
    """Duration, or number of seconds, after which the session expires. It excludes `expire_time`."""
    idle_ttl: timedelta | float | None
    """Duration, or number of seconds, without a touch after which the session expires; see `SessionManager.touch`."""


class AddSessionFields(AddSessionOptions):
    """The fields of a request of `SessionManager.add`. A field with the value None is treated as absent."""

    user_id: str
    """user_id of the user to which the session will belong. Required."""
    session_id: str
    """Key of the new session, unique among the sessions of its user. Required. Limits: see `AddUserFields.user_id`."""


class UpdateSessionOptions(TypedDict, total=False):
    """The optional fields of `UpdateSessionFields`."""

    metadata: Mapping[str, Any] | None
    """Changes to the metadata; see `UpdateUserOptions.metadata`."""
    update_mask: Iterable[str] | None
    """The fields to replace as a whole: `metadata` or `*`, which have the same effect."""
    etag: str | None
    """The etag that the caller expects. If the session has another etag, the write is rejected."""
    request_id: str | None
    """Idempotency key of the write, a UUID; see `AddUserOptions.request_id`."""


class UpdateSessionFields(UpdateSessionOptions):
    """The fields of a request of `SessionManager.update`. A field that is absent or None is not changed."""

    user_id: str
    """user_id of the user to which the session belongs. Required."""
    session_id: str
    """session_id of the session to update. Required."""


def merge_fields(mapping: Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a request. The caller can give them as a mapping, as keyword arguments, or as both.

    Raises:
        TypeError: If `mapping` is not a mapping, or a field is given twice.
    """
    if mapping is None:
        return dict(keywords)
    if not isinstance(mapping, Mapping):
        raise TypeError(f"expected a mapping of fields or keyword arguments, not {type(mapping).__name__}")
    twice = sorted(mapping.keys() & keywords.keys())
    if twice:
        raise TypeError(f"fields given both in the mapping and as keyword arguments: {', '.join(twice)}")
    return {**mapping, **keywords}


def with_request_id(fields: dict[str, Any]) -> dict[str, Any]:
    """Adds a request_id to the fields of a write if the caller gave none, so that a retried write is applied once."""
    if fields.get("request_id") is None:
        # Imported here, because uuid also imports platform, which takes 2 ms. A program that only reads needs neither.
        from uuid import uuid4  # noqa: PLC0415

        fields["request_id"] = str(uuid4())
    return fields


def build_request(request: type[RequestT], fields: Mapping[str, object]) -> RequestT:
    """Makes a request message.

    Args:
        request: The generated class of the request.
        fields: The fields by name. A field with the value None is treated as absent.

    Returns:
        The message.

    Raises:
        InvalidArgumentError: If a field is unknown or a value is invalid; `violations` lists all invalid fields.
    """
    message = request()
    known = request.DESCRIPTOR.fields_by_name
    texts = _text_fields(request.DESCRIPTOR)
    violations: list[FieldViolation] = []
    for name, value in fields.items():
        if name in texts and value is not None and not _wrong_text(value):  # almost always, and faster than `_set`
            setattr(message, name, value)
        elif name not in known:
            violations.append(
                FieldViolation(printable(str(name)), f"is not a field; the fields are {', '.join(known)}")
            )
        elif value is not None:
            violations.extend(_set(message, cast("FieldDescriptor", known[name]), value))
    reject(violations)
    return message


@cache
def _text_fields(message: Descriptor) -> frozenset[str]:
    """Returns the names of the fields that contain one text."""
    texts = (field for field in message.fields if field.type == field.TYPE_STRING and not field.is_repeated)
    return frozenset(field.name for field in texts)


def reject(violations: Sequence[FieldViolation]) -> None:
    """Raises InvalidArgumentError with all violations, if there are any."""
    if violations:
        summary = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise InvalidArgumentError(f"the request was not sent: {summary}", violations=violations)


def _set(message: Message, field: FieldDescriptor, value: object) -> Iterable[FieldViolation]:
    """Sets one field; returns the violations of its value."""
    name = field.name
    if field.message_type is not None:
        return _fill(getattr(message, name), value, field)
    if field.is_repeated:
        return _extend(getattr(message, name), value, name)
    if field.enum_type is not None:
        return _set_enum(message, field, field.enum_type, value)
    wrong = _wrong_scalar(field, value)
    if wrong:
        return [FieldViolation(name, wrong)]
    setattr(message, name, value)
    return ()


def _fill(target: object, value: object, field: FieldDescriptor) -> Iterable[FieldViolation]:
    """Sets a field that is a message."""
    if isinstance(target, Struct):
        return fill_struct(target, value, field.name)
    if isinstance(target, Timestamp):
        return _set_time(target, value, field.name)
    if isinstance(target, Duration):
        return _set_duration(target, value, field.name)
    if isinstance(target, FieldMask):
        target.SetInParent()
        return _extend(target.paths, value, field.name)
    raise TypeError(f"{field.full_name} is of a type that requests do not have")


def _wrong_scalar(field: FieldDescriptor, value: object) -> str:
    if field.type == field.TYPE_STRING:
        return _wrong_text(value)
    if field.type == field.TYPE_BOOL:
        return "" if isinstance(value, bool) else f"must be a bool, not {type(value).__name__}"
    return _wrong_integer(value, 32 if field.type == field.TYPE_INT32 else 64)


def _set_time(target: Timestamp, value: object, name: str) -> Iterable[FieldViolation]:
    if not isinstance(value, datetime) or value.tzinfo is None:
        given = "a datetime without time zone" if isinstance(value, datetime) else type(value).__name__
        return [FieldViolation(name, f"must be a datetime with a time zone, not {given}")]
    target.SetInParent()
    fill_timestamp(target, value)
    return ()


def _set_duration(target: Duration, value: object, name: str) -> Iterable[FieldViolation]:
    if isinstance(value, timedelta):
        span = value
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MOST_SECONDS:
        span = timedelta(seconds=value)
    else:
        given = repr(value) if isinstance(value, (int, float)) else type(value).__name__
        return [FieldViolation(name, f"must be a timedelta or a number of seconds, not {given}")]
    target.SetInParent()
    target.FromTimedelta(span)
    return ()


def _set_enum(
    message: Message, field: FieldDescriptor, kind: EnumDescriptor, value: object
) -> Iterable[FieldViolation]:
    """Sets an enum by the name of a value without the prefix that the name of the enum adds, such as `BASIC`."""
    prefix = f"{kind.name.upper()}_"
    names = {each.name.removeprefix(prefix): each.number for each in kind.values if each.number}
    if not isinstance(value, str) or value not in names:
        given = repr(value) if isinstance(value, str) else type(value).__name__
        return [FieldViolation(field.name, f"must be one of {', '.join(names)}, not {printable(given)}")]
    setattr(message, field.name, names[value])
    return ()


def _extend(target: Any, value: object, name: str) -> Iterable[FieldViolation]:
    # A str is also iterable, and would silently become a list of its letters.
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        return [FieldViolation(name, f"must be a list of strings, not {type(value).__name__}")]
    items = list(islice(value, MOST_ITEMS + 1))
    if len(items) > MOST_ITEMS:
        return [FieldViolation(name, f"must have at most {MOST_ITEMS} strings")]
    if set(map(type, items)) <= {str} and all(map(str.isascii, items)):  # almost always, and faster
        target.extend(items)
        return ()
    violations = []
    for index, item in enumerate(items):
        wrong = _wrong_text(item)
        if wrong:
            violations.append(FieldViolation(f"{name}[{index}]", wrong))
        else:
            target.append(item)
    return violations


def _wrong_text(value: object) -> str:
    if not isinstance(value, str):
        return f"must be a string, not {type(value).__name__}"
    return "" if is_unicode(value) else "has a lone surrogate, which UTF-8 cannot encode"


def _wrong_integer(value: object, bits: int) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        return f"must be an integer, not {type(value).__name__}"
    bound = 1 << (bits - 1)
    return "" if -bound <= value < bound else f"must fit in {bits} bits"
