"""From the arguments of a call to its request message.

What can only be said here is checked here: names that are no field, values of the wrong type, metadata that a Struct
cannot hold. Lengths, required fields and the like are the service's to check, so that each rule lives in one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypedDict, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from userservice.errors import FieldViolation, InvalidArgumentError
from userservice.metadata import fill_struct, is_unicode, printable

RequestT = TypeVar("RequestT", bound="Message")


MOST_ITEMS = 100_000
"""More than any list of a request can hold, so that an iterable without an end is rejected too."""


class Unchecked:
    """Stands for Any, where an argument must be of a type with Any, such as `dict[str, Any]`.

    Type checkers accept `dict[str, Any]` for `Mapping[str, Unchecked]`, because Any is compatible with everything, but
    no dict display: its values have types, and none of them is this one. So the fields of `add({"userid": "a"})` are
    checked, and a variable whose content is not known when types are checked is accepted.
    """


UncheckedFields: TypeAlias = Mapping[str, Unchecked]
"""Fields by name that type checkers cannot check, such as a `dict[str, Any]`."""


class AddUserOptions(TypedDict, total=False):
    """What `AddUserFields` has besides the required fields."""

    email: str | None
    """E-mail address, not parsed, at most 320 bytes."""
    first_name: str | None
    """Given name, at most 256 bytes."""
    last_name: str | None
    """Family name, at most 256 bytes."""
    metadata: Mapping[str, Any] | None
    """Free-form data: None, bool, int within ±2^53, float, str, list, mapping; 16 levels deep, 64 KiB encoded."""
    request_id: str | None
    """A UUID that identifies this write, made by the manager if absent. Within 10 minutes it is applied once."""


class AddUserFields(AddUserOptions):
    """What `UserManager.add` takes. A field that is None counts as absent."""

    user_id: str
    """Name of the new user. Required. 1 to 256 bytes of UTF-8, no control characters, no white space at the ends."""


class UpdateUserOptions(TypedDict, total=False):
    """What `UpdateUserFields` has besides the required fields."""

    email: str | None
    """New e-mail address; empty clears it."""
    first_name: str | None
    """New given name; empty clears it."""
    last_name: str | None
    """New family name; empty clears it."""
    metadata: Mapping[str, Any] | None
    """Changes to the metadata, merged as JSON Merge Patch (RFC 7396) says: None removes a key."""
    update_mask: Iterable[str] | None
    """Fields to replace whole instead: `email`, `first_name`, `last_name`, `metadata`, or `*` for all of them."""
    etag: str | None
    """The etag as the caller knows it; if it is not the current one, nothing is changed."""
    request_id: str | None
    """A UUID that identifies this write; see `AddUserOptions.request_id`."""


class UpdateUserFields(UpdateUserOptions):
    """What `UserManager.update` takes. A field that is None counts as absent; what is absent stays as it is."""

    user_id: str
    """Name of the user to change. Required."""


class AddSessionOptions(TypedDict, total=False):
    """What `AddSessionFields` has besides the required fields."""

    metadata: Mapping[str, Any] | None
    """Free-form data; see `AddUserOptions.metadata`."""
    request_id: str | None
    """A UUID that identifies this write; see `AddUserOptions.request_id`."""


class AddSessionFields(AddSessionOptions):
    """What `SessionManager.add` takes. A field that is None counts as absent."""

    user_id: str
    """The user that the session will belong to. Required."""
    session_id: str
    """Name of the new session, unique within its user. Required. Limits as for user_id."""


class UpdateSessionOptions(TypedDict, total=False):
    """What `UpdateSessionFields` has besides the required fields."""

    metadata: Mapping[str, Any] | None
    """Changes to the metadata; see `UpdateUserOptions.metadata`."""
    update_mask: Iterable[str] | None
    """Fields to replace whole instead: `metadata`, or `*`, which is the same here."""
    etag: str | None
    """The etag as the caller knows it; if it is not the current one, nothing is changed."""
    request_id: str | None
    """A UUID that identifies this write; see `AddUserOptions.request_id`."""


class UpdateSessionFields(UpdateSessionOptions):
    """What `SessionManager.update` takes. A field that is None counts as absent; what is absent stays as it is."""

    user_id: str
    """The user that the session belongs to. Required."""
    session_id: str
    """Name of the session to change. Required."""


def merge_fields(mapping: Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Joins the two ways of giving fields, a mapping and keyword arguments, which may be used together.

    Raises:
        TypeError: If the mapping is none, or a field is given in both.
    """
    if mapping is None:
        return dict(keywords)
    if not isinstance(mapping, Mapping):
        raise TypeError(f"expected a mapping of fields or keyword arguments, not {type(mapping).__name__}")
    twice = sorted(mapping.keys() & keywords.keys())
    if twice:
        raise TypeError(f"given in the mapping and as a keyword argument too: {', '.join(twice)}")
    return {**mapping, **keywords}


def with_request_id(fields: dict[str, Any]) -> dict[str, Any]:
    """Names the write, unless the caller did, so that a retry of it is applied once."""
    if fields.get("request_id") is None:
        # Imported here because it brings the module platform along: 2 ms, and a program that only reads needs neither.
        from uuid import uuid4  # noqa: PLC0415

        fields["request_id"] = str(uuid4())
    return fields


def build_request(request: type[RequestT], fields: Mapping[str, object]) -> RequestT:
    """Makes a request message.

    Args:
        request: The generated class of the request.
        fields: The fields by name. One that is None counts as absent.

    Returns:
        The message.

    Raises:
        InvalidArgumentError: If a name is no field of the request, or a value does not fit its field; with every
            violation of the request, not only the first.
    """
    message = request()
    known = request.DESCRIPTOR.fields_by_name
    violations: list[FieldViolation] = []
    for name, value in fields.items():
        if name not in known:
            violations.append(FieldViolation(printable(str(name)), f"is not a field; there are {', '.join(known)}"))
        elif value is not None:
            violations.extend(_set(message, cast("FieldDescriptor", known[name]), value))
    if violations:
        summary = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise InvalidArgumentError(f"the request was not sent: {summary}", violations=violations)
    return message


def _set(message: Message, field: FieldDescriptor, value: object) -> Iterable[FieldViolation]:
    """Sets one field; returns what is wrong with the value."""
    name = field.name
    if field.message_type is not None:
        target = getattr(message, name)
        if isinstance(target, Struct):
            return fill_struct(target, value, name)
        if isinstance(target, FieldMask):
            target.SetInParent()
            return _extend(target.paths, value, name)
        raise TypeError(f"{field.full_name} is of a type that requests do not have")
    if field.is_repeated:
        return _extend(getattr(message, name), value, name)
    if field.type == field.TYPE_STRING:
        wrong = _wrong_text(value)
    else:
        wrong = _wrong_integer(value, 32 if field.type == field.TYPE_INT32 else 64)
    if wrong:
        return [FieldViolation(name, wrong)]
    setattr(message, name, value)
    return ()


def _extend(target: Any, value: object, name: str) -> Iterable[FieldViolation]:
    # A str is iterable too, and would silently become a list of its letters.
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        return [FieldViolation(name, f"must be a list of strings, not {type(value).__name__}")]
    violations = []
    for index, item in enumerate(value):
        if index == MOST_ITEMS:
            return [FieldViolation(name, f"must have at most {MOST_ITEMS} strings")]
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
