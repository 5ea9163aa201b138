"""The keys of e-mail addresses in the e-mail index.

Writes and queries use the same functions, so that an address is found regardless of its case and Unicode form. The
index contains only numbers. Two addresses can have the same number, so a query compares the addresses in the records
too.
"""

import unicodedata
from collections.abc import Sequence
from hashlib import blake2b

from userservice_server.wire.records import UUID_FIELD_BYTES, UUID_HEAD, CorruptRecordError, id_end, uuids_of
from userservice_server.wire.varint import read_varint

SHARED = 0
"""The score of a key that several users have, instead of the id of its user."""

UNICODE_VERSION = unicodedata.unidata_version
"""The version of Unicode that defines ``normalized``. A later version can change the form of some addresses."""

MEMBER_BYTES = 7  # of the key of an address, or of an id
_HASH_BYTES, _UNUSED_BITS = 7, 3  # 53 bits remain, which a score represents exactly
_EMAIL_TAG = b"\x22"  # field 4, length-delimited
_ONE_BYTE = 0x80  # a length below this number has one byte


def normalized(email: str) -> str:
    """Returns the form of an address in which two addresses are compared: NFC and case folding."""
    if email.isascii():
        return email.lower()  # equal to the general form, and faster
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", email).casefold())


def all_normalized(emails: Sequence[str]) -> list[str]:
    """Returns the normalized forms of many addresses; faster than ``normalized`` for each."""
    if all(map(str.isascii, emails)):
        return list(map(str.lower, emails))
    return list(map(normalized, emails))


def email_key(form: str) -> int:
    """Returns the number under which the index contains an address, given its normalized form."""
    digest = blake2b(form.encode(), digest_size=_HASH_BYTES).digest()
    return int.from_bytes(digest, "big") >> _UNUSED_BITS


def index_member(number: int) -> bytes:
    """Returns the member of the index for the key of an address, or for the id of a user."""
    return number.to_bytes(MEMBER_BYTES, "big")


def email_in(record: bytes) -> str:
    """Returns the e-mail address of a user, given its record."""
    return _email_at(record, id_end(record))


def emails_in(records: Sequence[bytes]) -> list[str]:
    """Returns the e-mail addresses of many users, given their records; faster than ``email_in`` for each."""
    try:
        return [
            record[tag + 2 : tag + 2 + record[tag + 1]].decode()
            if record[tag] == _EMAIL_TAG[0] and record[tag + 1] < _ONE_BYTE
            else _email_at(record, tag - UUID_FIELD_BYTES)
            for record, tag in zip(records, [uuid + UUID_FIELD_BYTES for uuid in uuids_of(records)], strict=True)
        ]
    except IndexError:
        raise CorruptRecordError("a record ends after its uuid") from None


def key_of_record(record: bytes) -> int | None:
    """Returns the key of the address in the record of a user; None if the user has no address."""
    return _key(email_in(record))


def key_of_new(tail: bytes) -> int | None:
    """Returns the key of the address of a new user, given the encoded fields after the id; None without address."""
    return _key(_email_at(tail, 0))


def _key(email: str) -> int | None:
    return email_key(normalized(email)) if email else None


def _email_at(encoded: bytes, uuid: int) -> str:
    """Returns the address in the encoded fields of a user; the field uuid starts at the offset ``uuid``."""
    if not encoded.startswith(UUID_HEAD, uuid):
        raise CorruptRecordError("a user has no uuid")
    position = uuid + UUID_FIELD_BYTES
    if not encoded.startswith(_EMAIL_TAG, position):
        return ""
    length, start = read_varint(encoded, position + 1)
    return encoded[start : start + length].decode()
