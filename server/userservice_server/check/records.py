"""Checks a stored record by itself."""

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from userservice.v1.session_pb2 import Session
from userservice.v1.user_pb2 import User
from userservice_server.store.keys import Table
from userservice_server.wire.ids import MAX_ID
from userservice_server.wire.records import FRAME_TAG, ID_TAG, key_field
from userservice_server.wire.varint import try_read_varint, varint


@dataclass(frozen=True, slots=True)
class Record:
    """The parts of a stored record."""

    body: bytes
    key: bytes
    id: int
    owner: str

    @classmethod
    def parse(cls, row: bytes, entity: type[User | Session]) -> "Record | str":
        """Parses a row; returns a text with the reason if the row cannot be parsed."""
        length_at = len(FRAME_TAG)
        length, start = try_read_varint(row, length_at)
        if not row.startswith(FRAME_TAG) or len(row) - start != length:
            return "the record is not framed as an element of field 1"
        try:
            message = entity.FromString(row[start:])
        except DecodeError:
            return f"the record cannot be decoded as a {entity.DESCRIPTOR.name}"
        key, owner = (message.session_id, message.user_id) if isinstance(message, Session) else (message.user_id, "")
        return cls(row[start:], key.encode(), message.id, owner)

    def flaws(self, score: float, table: Table) -> Iterator[str]:
        """Yields a text for each fault of the record in a row of ``table`` with this score."""
        if not self.body.startswith(key_field(self.key.decode()) + bytes([ID_TAG]) + varint(self.id)):
            yield "the record does not begin with its key and id"
        if self.id != score:
            yield f"the record contains another id: {self.id}"
        if not 0 < score <= MAX_ID or score != int(score):
            yield f"the id is not a whole number from 1 to {MAX_ID}"  # restored ids may name any partition
        if self.owner != table.owner:
            yield "the record belongs to another user"


def key_in(row: bytes) -> bytes:
    """Returns the key at the start of a row, which may be damaged."""
    _, start = try_read_varint(row, len(FRAME_TAG))
    length, start = try_read_varint(row, start + 1)
    return row[start : start + length]
