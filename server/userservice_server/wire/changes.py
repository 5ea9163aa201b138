"""Entries of the feed of changes, and the encoding of the messages of WatchUsers.

An entry is the value of the only field of a stream entry: the kind of the change (one byte, a ChangeKind), the id of
the record (7 bytes) and, for a session, the id of its user (7 bytes). If the record was removed, its key follows:
user_id or session_id. The scripts write entries (see store/scripts/_feed.lua). An empty entry reports no change; the
feed starts with one.

The id of an entry is its position: the store's time in microseconds, and a number that grows by one with every entry of
the partition. A gap in the numbers shows that entries are missing. After a failover or a crash that lost entries, other
entries get the numbers of the lost entries, but other times. A position therefore identifies one history of the store.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

from google.protobuf.message import Message

from userservice.v1.user_watch_pb2 import Change, ChangeKind, WatchUsersResponse
from userservice_server.wire.records import FRAME_TAG
from userservice_server.wire.varint import varint

ID_BYTES = 7
TRIM_INTERVAL = 100  # entries between two steps of removing old entries
TRIM_LIMIT = 10_000  # entries that one step removes at most, so that other commands need not wait long
USER_ADDED = ChangeKind.CHANGE_KIND_USER_ADDED
USER_UPDATED = ChangeKind.CHANGE_KIND_USER_UPDATED
USER_DELETED = ChangeKind.CHANGE_KIND_USER_DELETED
SESSION_ADDED = ChangeKind.CHANGE_KIND_SESSION_ADDED
SESSION_UPDATED = ChangeKind.CHANGE_KIND_SESSION_UPDATED
SESSION_DELETED = ChangeKind.CHANGE_KIND_SESSION_DELETED
SESSION_EXPIRED = ChangeKind.CHANGE_KIND_SESSION_EXPIRED

OF_SESSIONS = frozenset({SESSION_ADDED, SESSION_UPDATED, SESSION_DELETED, SESSION_EXPIRED})
REMOVALS = frozenset({USER_DELETED, SESSION_DELETED, SESSION_EXPIRED})
_KINDS = OF_SESSIONS | {USER_ADDED, USER_UPDATED, USER_DELETED}
_ADDITIONS = frozenset({USER_ADDED, SESSION_ADDED})


def _tag(message: type[Message], name: str, wire_type: int) -> bytes:
    return varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | wire_type)


_VARINT, _LENGTH_DELIMITED = 0, 2
_CHANGES_TAG = _tag(WatchUsersResponse, "changes", _LENGTH_DELIMITED)
_TOKEN_TAG = _tag(WatchUsersResponse, "resume_token", _LENGTH_DELIMITED)
_COMPLETE = _tag(WatchUsersResponse, "snapshot_complete", _VARINT) + b"\x01"
_KIND_TAG = _tag(Change, "kind", _VARINT)
_REVISION_TAG = _tag(Change, "revision", _VARINT)
_ID_TAG = _tag(Change, "id", _VARINT)
_USER_ID_TAG = _tag(Change, "user_id", _LENGTH_DELIMITED)
_SESSION_ID_TAG = _tag(Change, "session_id", _LENGTH_DELIMITED)
_SESSION_TAG = _tag(Change, "session", _LENGTH_DELIMITED)


class Position(NamedTuple):
    """The position of an entry in the feed of a partition; positions are ordered.

    Attributes:
        time: the store's time in microseconds since 1970, never before that of the previous entry.
        number: the number of the entry in its partition.
    """

    time: int
    number: int

    @classmethod
    def parse(cls, entry_id: bytes) -> Self:
        """Reads the id of a stream entry. Raises ValueError if the text is not such an id."""
        time, _, number = entry_id.partition(b"-")
        return cls(int(time), int(number))

    def encode(self) -> bytes:
        """Returns the id of the stream entry."""
        return b"%d-%d" % self


class Entry(NamedTuple):
    """An entry of the feed.

    Attributes:
        position: its position.
        kind: the kind of the change, a ChangeKind; 0 for an entry without a change.
        id: the id of the record.
        owner_id: for a session, the id of its user; else 0.
        key: if the record was removed, its user_id or session_id; else empty.
    """

    position: Position
    kind: int
    id: int = 0
    owner_id: int = 0
    key: bytes = b""

    @classmethod
    def parse(cls, position: Position, value: bytes) -> Self:
        """Reads an entry.

        Raises:
            ValueError: the value is not an entry.
        """
        if not value:
            return cls(position, 0)
        kind, record_id, rest = value[0], int.from_bytes(value[1 : 1 + ID_BYTES], "big"), value[1 + ID_BYTES :]
        if kind not in _KINDS:
            raise ValueError("an entry of an unknown kind")
        owner_id = 0
        if kind in OF_SESSIONS:
            owner_id, rest = int.from_bytes(rest[:ID_BYTES], "big"), rest[ID_BYTES:]
        if not record_id or (kind in REMOVALS) != bool(rest):
            raise ValueError("a damaged entry")
        return cls(position, kind, record_id, owner_id, rest)

    @property
    def user_id_number(self) -> int:
        """The id of the user that the entry concerns."""
        return self.owner_id or self.id


def merged_kind(earlier: int, later: int) -> int:
    """Returns the kind of one change that stands for two changes of a record."""
    return earlier if earlier in _ADDITIONS and later not in REMOVALS else later


def _delimited(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content


def user_change(kind: int, revision: int, record: bytes) -> bytes:
    """Encodes a change of a user that exists, as an element of ``changes``. The record is the field ``user``."""
    return _delimited(_CHANGES_TAG, record + _kind_and_revision(kind, revision))


def session_change(kind: int, revision: int, record: bytes) -> bytes:
    """Encodes a change of a session that exists. The record becomes the field ``session``."""
    return _delimited(_CHANGES_TAG, _SESSION_TAG + record[len(FRAME_TAG) :] + _kind_and_revision(kind, revision))


def removed_user(revision: int, user_id: bytes, record_id: int) -> bytes:
    """Encodes the deletion of a user."""
    kind = _kind_and_revision(USER_DELETED, revision)
    return _delimited(_CHANGES_TAG, kind + _delimited(_USER_ID_TAG, user_id) + _ID_TAG + varint(record_id))


def removed_session(kind: int, revision: int, user_id: bytes, session_id: bytes, record_id: int) -> bytes:
    """Encodes the removal of a session."""
    keys = _delimited(_USER_ID_TAG, user_id) + _delimited(_SESSION_ID_TAG, session_id)
    return _delimited(_CHANGES_TAG, _kind_and_revision(kind, revision) + keys + _ID_TAG + varint(record_id))


def _kind_and_revision(kind: int, revision: int) -> bytes:
    return _KIND_TAG + varint(kind) + (_REVISION_TAG + varint(revision) if revision else b"")


def response(changes: Sequence[bytes], token: str, *, snapshot_complete: bool) -> bytes:
    """Encodes a WatchUsersResponse."""
    end = _delimited(_TOKEN_TAG, token.encode())
    return b"".join((*changes, end, _COMPLETE if snapshot_complete else b""))
