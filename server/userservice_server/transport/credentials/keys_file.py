"""Reads the keys file (TOML): the keys and certificates of callers, with their scopes and limits.

    [keys.4fTbQ0w9XyZa]
    name = "nightly export"
    sha256 = "…"
    scopes = ["users.list"]
    expires_at = 2027-01-01T00:00:00Z

    [certificates."spiffe://example.org/export"]
    scopes = ["users.list"]

The file contains no secret, but a user who can change the file can add credentials. Errors contain no text of the file
except well-formed key ids, because an operator can paste a key into the wrong place.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from userservice_server.config import ConfigError
from userservice_server.config.secret_files import read_file
from userservice_server.transport.credentials.key_format import KEY_ID
from userservice_server.transport.credentials.scopes import ALL_SCOPES, SCOPES, granted

_MAX_NAME_LENGTH, _MAX_IDENTITY_LENGTH, _MAX_RATE, _MAX_STREAMS = 256, 2048, 1_000_000, 1_000_000
_MIN_RATE = 1e-6  # with a much lower rate, the time to wait would be too long for RetryInfo
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_POSITION = re.compile(r"\(at (?:line \d+, column \d+|end of document)\)")
OPTION = "--keys-file"
NEVER = math.inf
"""The time of expiry of an entry that does not expire."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key or a certificate in the keys file.

    Attributes:
        id: the id of the key, or the name in the certificate.
        name: description by the operator.
        scopes: the scopes of the credential.
        sha256: digest of the key; empty for a certificate.
        not_before: Unix time at which the credential becomes valid.
        expires_at: Unix time at which the credential expires.
        is_revoked: whether the credential is revoked.
        calls_per_second: maximum calls per second in each process; None: not limited.
        max_streams: maximum concurrent streams in each process; None: not limited.
    """

    id: str
    name: str
    scopes: frozenset[str]
    sha256: bytes = b""
    not_before: float = -math.inf
    expires_at: float = NEVER
    is_revoked: bool = False
    calls_per_second: float | None = None
    max_streams: int | None = None

    def fault(self, now: float) -> str:
        """Returns why the entry is not valid at a time; empty if the entry is valid."""
        if self.is_revoked:
            return "revoked"
        if now < self.not_before:
            return "not yet valid"
        return "expired" if now >= self.expires_at else ""


@dataclass(frozen=True, slots=True)
class KeysFile:
    """The content of a keys file: the keys by their ids, and the certificates by the names in them."""

    keys: Mapping[str, Entry]
    certificates: Mapping[str, Entry]


def read_keys_file(path: Path) -> bytes:
    """Returns the bytes of a keys file.

    Raises:
        ConfigError: the file cannot be read, is too large, or its owner or mode is not safe.
    """
    return read_file(path, OPTION, is_secret=False)


def parse_keys_file(content: bytes, path: Path) -> KeysFile:
    """Parses and checks the content of a keys file; errors contain the path.

    Raises:
        ConfigError: an entry is not valid. A keys file is accepted as a whole or not at all.
    """
    try:
        return _parsed(content)
    except _InvalidError as error:
        raise ConfigError(f"{OPTION} {path}: {error}") from None


class _InvalidError(Exception):
    """The keys file is invalid; the text contains the place and the problem."""


def _parsed(content: bytes) -> KeysFile:
    try:
        document = tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise _InvalidError("must be UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        position = _POSITION.search(str(error))  # the rest of the text can contain a part of the file
        raise _InvalidError(f"is not valid TOML {position[0] if position else ''}".rstrip()) from None
    except (RecursionError, ValueError, OverflowError):
        raise _InvalidError("is not valid TOML: nested too deep, or a number or date out of range") from None
    _check_names(document, {"keys", "certificates"}, "the file")
    return KeysFile(
        keys={key_id: _key(key_id, number, table) for number, key_id, table in _tables(document, "keys")},
        certificates={name: _certificate(name, number, t) for number, name, t in _tables(document, "certificates")},
    )


def _tables(document: dict[str, Any], kind: str) -> list[tuple[int, str, Any]]:
    tables = document.get(kind, {})
    if not isinstance(tables, dict):
        raise _InvalidError(f"{kind} must be tables, such as [{kind}.ID]")
    return [(number, name, table) for number, (name, table) in enumerate(tables.items(), 1)]


def _key(key_id: str, number: int, table: Any) -> Entry:
    if not KEY_ID.fullmatch(key_id):
        raise _InvalidError(f"key number {number}: the id must be 12 letters and digits; use userservice keys new")
    where = f"key {key_id}"
    entry = _Fields(table, where, {"sha256"})
    sha256 = entry.text("sha256", required=True)
    if not _SHA256.fullmatch(sha256):
        raise _InvalidError(f"{where}: sha256 must be 64 hexadecimal digits in lower case")
    return entry.entry(key_id, bytes.fromhex(sha256))


def _certificate(identity: str, number: int, table: Any) -> Entry:
    if not identity or len(identity) > _MAX_IDENTITY_LENGTH or not identity.isprintable():
        raise _InvalidError(f"certificate number {number}: the name must be a URI or a DNS name of a certificate")
    return _Fields(table, f"certificate number {number}", set()).entry(identity, b"")


def _check_names(table: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := len(table.keys() - known):
        names = ", ".join(sorted(known))
        raise _InvalidError(f"{where} has {unknown} unknown field{'s' * (unknown > 1)}; the fields are {names}")


class _Fields:
    """Reads the fields of an entry."""

    _COMMON = frozenset(("name", "scopes", "not_before", "expires_at", "revoked_at", "calls_per_second", "max_streams"))

    def __init__(self, table: Any, where: str, more: set[str]) -> None:
        if not isinstance(table, dict):
            raise _InvalidError(f"{where} must be a table")
        _check_names(table, set(self._COMMON) | more, where)
        self._table = table
        self._where = where

    def entry(self, entry_id: str, sha256: bytes) -> Entry:
        return Entry(
            id=entry_id,
            name=self.text("name"),
            scopes=self._scopes(),
            sha256=sha256,
            not_before=self._time("not_before", -math.inf),
            expires_at=self._time("expires_at", NEVER),
            is_revoked=self._time("revoked_at", NEVER) < NEVER,
            calls_per_second=self._rate(),
            max_streams=self._max_streams(),
        )

    def text(self, name: str, *, required: bool = False) -> str:
        value = self._table.get(name, "")
        if not isinstance(value, str) or len(value) > _MAX_NAME_LENGTH or not value.isprintable():
            raise self._invalid(name, f"must be a string of at most {_MAX_NAME_LENGTH} printable characters")
        if required and not value:
            raise self._invalid(name, "is required")
        return value

    def _scopes(self) -> frozenset[str]:
        value = self._table.get("scopes")
        known = ", ".join(sorted(SCOPES))
        if not isinstance(value, list) or not all(isinstance(scope, str) for scope in value):
            raise self._invalid("scopes", f"must be a list of scopes: {known} or {ALL_SCOPES}")
        if unknown := [number for number, scope in enumerate(value, 1) if scope not in SCOPES | {ALL_SCOPES}]:
            raise self._invalid(
                "scopes", f"has an unknown scope at position {unknown[0]}; known: {known}, {ALL_SCOPES}"
            )
        return granted(value)

    def _time(self, name: str, default: float) -> float:
        value = self._table.get(name)
        if value is None:
            return default
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise self._invalid(name, "must be a date and time with a time zone, such as 2027-01-01T00:00:00Z")
        try:
            return value.timestamp()
        except (OverflowError, ValueError):  # the time zone moves the time out of the supported years
            raise self._invalid(name, "is out of range") from None

    def _rate(self) -> float | None:
        value = self._table.get("calls_per_second")
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not _MIN_RATE <= value <= _MAX_RATE:
            raise self._invalid("calls_per_second", f"must be a number from {_MIN_RATE:f} to {_MAX_RATE}")
        return float(value)

    def _max_streams(self) -> int | None:
        value = self._table.get("max_streams")
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_STREAMS:
            raise self._invalid("max_streams", f"must be a whole number from 0 to {_MAX_STREAMS}")
        return value

    def _invalid(self, field: str, problem: str) -> _InvalidError:
        return _InvalidError(f"{self._where}: {field} {problem}")
