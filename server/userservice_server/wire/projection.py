"""Cuts views out of encoded records, without decoding them.

A view is a record without some of its fields. The fields of a record are stored in the order of their numbers, so the
view ID is the start of the record, and the view BASIC is the record without the bytes of its metadata, which
``basic_view`` removes. A list cuts a thousand records for each response, so the functions of this module avoid work
that is not necessary for most records.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from userservice.v1.session_pb2 import Session
from userservice.v1.user_pb2 import User
from userservice.v1.view_pb2 import View
from userservice_server.wire import basic_view
from userservice_server.wire.records import (
    OWNER_TAG,
    CorruptRecordError,
    Entity,
    framed,
    id_end,
    starts_of,
    uuids_of,
)
from userservice_server.wire.varint import read_varint

Cut: TypeAlias = Callable[[Sequence[bytes]], list[bytes]]
"""Returns the views of records, framed as records are."""


def cut_of(entity: type[Entity], view: "View.ValueType") -> Cut | None:
    """Returns the function that cuts a view; None for the view FULL, which is the whole record."""
    return _CUTS.get((entity, view))


def _user_ids(records: Sequence[bytes]) -> list[bytes]:
    """Returns the views ID of users: user_id and id."""
    starts = starts_of(records)
    ends = uuids_of(records, starts)
    return framed([record[start:end] for record, start, end in zip(records, starts, ends, strict=True)])


def _session_ids(records: Sequence[bytes]) -> list[bytes]:
    """Returns the views ID of sessions: session_id, id and user_id."""
    cut = []
    for record, start in zip(records, starts_of(records), strict=True):
        owner = id_end(record)
        if not record.startswith(OWNER_TAG, owner):
            raise CorruptRecordError("a session has no user_id")
        cut.append(record[start : _after(record, owner)])
    return framed(cut)


def _after(record: bytes, position: int) -> int:
    """Returns the position after a length-delimited field."""
    length, start = read_varint(record, position + 1)
    return start + length


_CUTS: Mapping[tuple[type, int], Cut] = {
    (User, View.VIEW_ID): _user_ids,
    (User, View.VIEW_BASIC): basic_view.cut_of(User.DESCRIPTOR, frozenset({"email", "first_name", "last_name"})),
    (Session, View.VIEW_ID): _session_ids,
    (Session, View.VIEW_BASIC): basic_view.cut_of(Session.DESCRIPTOR, frozenset()),
}
