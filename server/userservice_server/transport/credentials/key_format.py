"""API keys: ``usk_<id>_<secret>_<checksum>``.

The prefix lets scanners for leaked secrets find keys. The id is public: it names the entry in the keys file and the
caller in the log. The checksum detects typing errors and truncated keys without the keys file.
"""

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass

PREFIX = "usk_"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH, _SECRET_LENGTH, _CHECKSUM_LENGTH = 12, 43, 6  # 43 digits encode 256 bits
_KEY = re.compile(r"(usk_([0-9A-Za-z]{12})_[0-9A-Za-z]{43})_([0-9A-Za-z]{6})", re.ASCII)
KEY_ID = re.compile(r"[0-9A-Za-z]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key.

    Attributes:
        id: the public part.
        text: the whole key, which is shown once and not stored.
        digest: the SHA-256 of the key, which the keys file contains.
    """

    id: str
    text: str
    digest: bytes


def new_key() -> NewKey:
    """Creates a key from 256 random bits."""
    key_id = "".join(secrets.choice(_DIGITS) for _ in range(_ID_LENGTH))
    body = f"{PREFIX}{key_id}_{_text(secrets.randbits(256), _SECRET_LENGTH)}"
    text = f"{body}_{_checksum(body)}"
    return NewKey(key_id, text, digest_of(text))


def key_id_in(text: str) -> str | None:
    """Returns the id in a key; None if the format or the checksum is wrong."""
    found = _KEY.fullmatch(text)
    return found[2] if found and _checksum(found[1]) == found[3] else None


def digest_of(text: str) -> bytes:
    """Returns the SHA-256 of a whole key. The secret is random and long, so a slow hash would not improve security."""
    return hashlib.sha256(text.encode()).digest()


def _checksum(body: str) -> str:
    return _text(zlib.crc32(body.encode()), _CHECKSUM_LENGTH)


def _text(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
