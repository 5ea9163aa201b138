"""Cuts views out of encoded records, without decoding them.

A view is a record without some of its fields. The fields of a record are stored in the order of their numbers, so the
view ID is the start of the record, and the view BASIC is the record without the bytes of its metadata. A list cuts a
thousand records for each response, so the functions of this module avoid work that is not necessary for most records.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from userservice.v1.session_pb2 import Session
from userservice.v1.user_pb2 import User
from userservice.v1.view_pb2 import View
from userservice_server.wire.records import (
    FRAME_TAG,
    OWNER_TAG,
    UUID_FIELD_BYTES,
    CorruptRecordError,
    Entity,
    id_end,
    starts_of,
    uuids_of,
)
from userservice_server.wire.varint import read_varint, varint

Cut: TypeAlias = Callable[[Sequence[bytes]], list[bytes]]
"""Returns the views of records, framed as records are."""

_ONE_BYTE = 0x80  # a varint below this number has one byte
_USER_METADATA = User.DESCRIPTOR.fields_by_name["metadata"].number << 3 | 2
_SESSION_METADATA = Session.DESCRIPTOR.fields_by_name["metadata"].number << 3 | 2
# The tag of a record, and its length, by length: a record without metadata is shorter than 2 KiB.
_FRAMES = tuple(FRAME_TAG + varint(length) for length in range(2048))


def cut_of(entity: type[Entity], view: "View.ValueType") -> Cut | None:
    """Returns the function that cuts a view; None for the view FULL, which is the whole record."""
    return _CUTS.get((entity, view))


def _frame(body: bytes) -> bytes:
    size = len(body)
    return (_FRAMES[size] if size < len(_FRAMES) else FRAME_TAG + varint(size)) + body


def _user_ids(records: Sequence[bytes]) -> list[bytes]:
    """Returns the views ID of users: user_id and id."""
    starts = starts_of(records)
    return [
        _frame(record[start:end]) for record, start, end in zip(records, starts, uuids_of(records, starts), strict=True)
    ]


def _session_ids(records: Sequence[bytes]) -> list[bytes]:
    """Returns the views ID of sessions: session_id, id and user_id."""
    cut = []
    for record, start in zip(records, starts_of(records), strict=True):
        owner = id_end(record)
        if not record.startswith(OWNER_TAG, owner):
            raise CorruptRecordError("a session has no user_id")
        cut.append(_frame(record[start : _after(record, owner)]))
    return cut


def _users_without_metadata(records: Sequence[bytes]) -> list[bytes]:
    starts = starts_of(records)
    profiles = [place + UUID_FIELD_BYTES for place in uuids_of(records, starts)]
    return _without_metadata(_USER_METADATA, records, starts, profiles)


def _sessions_without_metadata(records: Sequence[bytes]) -> list[bytes]:
    return _without_metadata(_SESSION_METADATA, records, starts_of(records), map(id_end, records))


def _without_metadata(
    metadata_tag: int, records: Sequence[bytes], starts: Sequence[int], positions: "Sequence[int] | map[int]"
) -> list[bytes]:
    """Removes metadata from records.

    Args:
        metadata_tag: tag of the field to remove. The fields between the id and this field are length-delimited.
        records: the records.
        starts: where the content of each record starts.
        positions: a field of each record at or before its metadata.
    """
    cut = []
    try:
        for record, start, first in zip(records, starts, positions, strict=True):
            position = first
            while (tag := record[position]) < metadata_tag:
                length = record[position + 1]
                position = position + 2 + length if length < _ONE_BYTE else _after(record, position)
            if tag != metadata_tag:  # the record has no metadata; the times follow
                cut.append(record)
                continue
            length, after = record[position + 1], position + 2
            if length >= _ONE_BYTE:
                length, after = read_varint(record, position + 1)
            cut.append(_frame(record[start:position] + record[after + length :]))
    except IndexError:
        raise CorruptRecordError("a record ends before the field after its metadata") from None
    return cut


def _after(record: bytes, position: int) -> int:
    """Returns the position after a length-delimited field."""
    length, start = read_varint(record, position + 1)
    return start + length


_CUTS: Mapping[tuple[type, int], Cut] = {
    (User, View.VIEW_ID): _user_ids,
    (User, View.VIEW_BASIC): _users_without_metadata,
    (Session, View.VIEW_ID): _session_ids,
    (Session, View.VIEW_BASIC): _sessions_without_metadata,
}
