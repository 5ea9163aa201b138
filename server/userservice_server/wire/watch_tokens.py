"""Resume tokens of WatchUsers: they identify the store, the epoch of its feed, and a position in each partition.

A token is opaque to callers. A checksum detects damaged tokens, so that they are not treated as expired tokens.
"""

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from userservice_server.wire.changes import Position
from userservice_server.wire.varint import try_read_varint, varint

MAX_TOKEN_BYTES = 8 << 10
_VERSION = 1
_DIGEST_BYTES = 12
_CHECKSUM_BYTES = 4


def feed_digest(store_id: bytes, epoch: bytes) -> bytes:
    """Returns the digest that identifies the store and the epoch of its feed in a token."""
    return blake2b(store_id + b":" + epoch, digest_size=_DIGEST_BYTES).digest()


class Reached(NamedTuple):
    """How far a watch has come in a partition.

    Attributes:
        position: the changes up to this position were delivered.
        seen: the newest position that the delivered records can contain, because records are read at delivery. If the
            store loses this position, it has lost something that was delivered.
    """

    position: Position
    seen: Position

    @classmethod
    def at(cls, position: Position) -> "Reached":
        """Returns the state in which nothing after ``position`` was seen."""
        return cls(position, position)


@dataclass(frozen=True, slots=True)
class Token:
    """What a resume token contains.

    Attributes:
        feed: identifies the store and the epoch of its feed; see ``feed_digest``.
        kinds: the kinds of the watch, as a set of bits.
        reached: how far the watch has come, by partition.
        cursor: while a snapshot is sent: the id of its last user; None after the snapshot.
        session_cursor: the last session of that user that was sent; None if the next user follows.
    """

    feed: bytes
    kinds: int
    reached: Sequence[Reached]
    cursor: int | None = None
    session_cursor: int | None = None

    def encode(self) -> str:
        """Returns the token as text."""
        if self.cursor is None:
            return _of_changes(self.feed, self.kinds, tuple(self.reached))
        return self._encoded()

    def _encoded(self) -> str:
        base_time = min(each.position.time for each in self.reached)
        base_number = min(each.position.number for each in self.reached)
        in_snapshot = self.cursor is not None
        numbers = [self.kinds, int(in_snapshot)]
        if self.cursor is not None:
            numbers += [self.cursor, 0 if self.session_cursor is None else self.session_cursor + 1]
        numbers += [len(self.reached), base_time, base_number]
        for position, seen in self.reached:
            numbers += [position.time - base_time, position.number - base_number]
            numbers += [seen.time - position.time, seen.number - position.number]
        content = bytes([_VERSION]) + self.feed + b"".join(map(varint, numbers))
        checksum = zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "big")
        return urlsafe_b64encode(content + checksum).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> "Token | None":
        """Reads a token; returns None if the text is not a complete token."""
        try:
            encoded = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (NotBase64, ValueError):
            return None
        content, checksum = encoded[:-_CHECKSUM_BYTES], encoded[-_CHECKSUM_BYTES:]
        if zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "big") != checksum or content[:1] != bytes([_VERSION]):
            return None
        return cls._parse(content)

    @classmethod
    def _parse(cls, content: bytes) -> "Token | None":
        feed, numbers = content[1 : 1 + _DIGEST_BYTES], _numbers(content, 1 + _DIGEST_BYTES)
        try:
            kinds, in_snapshot = next(numbers), next(numbers)
            cursor, session_cursor = (next(numbers), next(numbers)) if in_snapshot else (None, 0)
            partitions, base_time, base_number = next(numbers), next(numbers), next(numbers)
            reached = []
            for _ in range(partitions):
                position = Position(base_time + next(numbers), base_number + next(numbers))
                seen = Position(position.time + next(numbers), position.number + next(numbers))
                reached.append(Reached(position, seen))
        except StopIteration:
            return None
        after = session_cursor - 1 if session_cursor else None
        return cls(feed, kinds, reached, cursor, after)


@lru_cache(maxsize=8)
def _of_changes(feed: bytes, kinds: int, reached: tuple[Reached, ...]) -> str:
    """Encodes a token without a cursor. The cache serves watches that are not behind, which have equal tokens."""
    return Token(feed, kinds, reached)._encoded()  # noqa: SLF001 - of this module


def _numbers(content: bytes, position: int) -> Iterator[int]:
    while position < len(content):
        number, following = try_read_varint(content, position)
        if following == position:
            return
        position = following
        yield number
