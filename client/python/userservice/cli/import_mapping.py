"""Turns the rows of a file into the fields of users."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from userservice.cli.exit_codes import USAGE, CommandError
from userservice.cli.import_files import ERROR_COLUMN, TEXT_COLUMN, Row

TEXT_FIELDS = ("user_id", "email", "first_name", "last_name")
FIELDS = (*TEXT_FIELDS, "metadata")
RESTORED = ("id", "uuid", "created_at", "updated_at", "etag")
SESSIONS = "sessions"

_METADATA = "metadata."
_OWN_COLUMNS = frozenset({ERROR_COLUMN, TEXT_COLUMN, SESSIONS, *RESTORED})


class RowError(ValueError):
    """A row cannot be turned into a user; the message names the field."""


class UserMapping:
    """Finds the fields of users in the columns of a file.

    Args:
        pairs: Texts FIELD=COLUMN. FIELD is a field of a user, or a key below `metadata.`. COLUMN is the name of a
            column, or a path of keys with dots.
        unknown: What happens to columns that no field needs: "fail", "ignore", or "metadata" (they become metadata).
        restore: Whether id, uuid, times and etag are kept.
        is_text: Whether all values are texts, as in CSV; an empty text is then an absent value.

    Raises:
        CommandError: If a pair is invalid.
    """

    def __init__(self, pairs: Sequence[str], *, unknown: str, restore: bool, is_text: bool) -> None:
        self._unknown, self._restore, self._is_text = unknown, restore, is_text
        self._sources = {field: field for field in (*FIELDS, *(RESTORED if restore else ()))}
        self._mapped: set[str] = set()
        for pair in pairs:
            field, equals, column = pair.partition("=")
            if not (equals and column) or not (field in self._sources or field.startswith(_METADATA)):
                raise CommandError(
                    f"--map {pair}: expected FIELD=COLUMN, where FIELD is {', '.join(FIELDS)} or metadata.KEY", USAGE
                )
            self._sources[field] = column
            self._mapped.add(column.partition(".")[0])
            self._mapped.add(column)

    def check_columns(self, columns: Sequence[str] | None) -> None:
        """Checks the columns of a file before its first row is imported.

        Raises:
            CommandError: If there is no column for the user_id, or a column is unknown.
        """
        if columns is None:
            return
        source = self._sources["user_id"]
        if source not in columns and source.partition(".")[0] not in columns:
            raise CommandError(
                f"the file has no column {source!r}; use --map user_id=COLUMN. Its columns: {', '.join(columns)}", USAGE
            )
        if unknown := self._unknown_of(columns):
            raise CommandError(
                f"unknown columns: {', '.join(unknown)}; use --map for them, or --unknown ignore or metadata", USAGE
            )

    def _unknown_of(self, columns: Sequence[str] | Mapping[str, Any]) -> list[str]:
        if self._unknown != "fail":
            return []
        return [column for column in columns if not self._is_known(column)]

    def _is_known(self, column: str) -> bool:
        return column in self._mapped or column in _OWN_COLUMNS or self._sources.get(column) == column

    def user(self, row: Row) -> dict[str, Any]:
        """Returns the fields of a user.

        Raises:
            RowError: If the row cannot be read, or a value has a wrong type.
        """
        if row.error:
            raise RowError(row.error)
        if unknown := self._unknown_of(row.values):
            raise RowError(f"{unknown[0]}: is not a field; use --map, or --unknown ignore or metadata")
        fields: dict[str, Any] = {}
        more: dict[str, Any] = {}
        for field, source in self._sources.items():
            value = _find(row.values, source)
            if value is None or (value == "" and (self._is_text or field in TEXT_FIELDS)):
                continue
            if field.startswith(_METADATA):
                _put(more, field.removeprefix(_METADATA).split("."), _plain(value))
            else:
                fields[field] = _converted(field, value)
        if self._unknown == "metadata":
            rest = {name: _plain(value) for name, value in row.values.items() if not self._is_known(name)}
            more = {**{name: value for name, value in rest.items() if value != "" or not self._is_text}, **more}
        if more:
            fields["metadata"] = {**fields.get("metadata", {}), **more}
        return fields


def sessions_of(row: Row) -> list[dict[str, Any]]:
    """Returns the sessions in a row of an export with sessions, without those that have expired since.

    Raises:
        RowError: If they are not a list of objects, or a time is invalid.
    """
    value = row.values.get(SESSIONS) or []
    if isinstance(value, str):
        value = _json(SESSIONS, value)
    if not isinstance(value, list) or not all(isinstance(session, dict) for session in value):
        raise RowError(f"{SESSIONS}: must be a list of objects")
    return [_session(session) for session in value if not _has_expired(session)]


def _session(exported: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a request that adds the session with the same expiry; its idle_ttl starts again."""
    fields = {name: exported.get(name) for name in ("session_id", "metadata", "idle_ttl")}
    if exported.get("max_expire_time") is not None:
        fields["expire_time"] = _time(f"{SESSIONS}: max_expire_time", exported["max_expire_time"])
    return fields


def _has_expired(exported: Mapping[str, Any]) -> bool:
    end = exported.get("expire_time")
    return end is not None and _time(f"{SESSIONS}: expire_time", end) <= datetime.now(UTC)


def _find(values: Mapping[str, Any], source: str) -> Any:
    if source in values:
        return values[source]
    found: Any = values
    for key in source.split("."):
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict):
            found = found.get(key)
        else:
            return None
    return found


def _put(target: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        target = target.setdefault(key, {})
    target[path[-1]] = value


def _converted(field: str, value: Any) -> Any:
    if field == "metadata":
        if isinstance(value, str):
            value = _json(field, value)
        if not isinstance(value, dict):
            raise RowError("metadata: must be a JSON object")
        return _plain(value)
    if field == "id":
        return _integer(value)
    if field in ("created_at", "updated_at"):
        return _time(field, value)
    if not isinstance(value, str):
        raise RowError(f"{field}: must be a string, not {type(value).__name__}")
    return value


def _json(field: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RowError(f"{field}: is not valid JSON") from None


def _integer(value: Any) -> int:
    try:
        return int(value)
    except (ValueError, TypeError):
        raise RowError("id: must be an integer") from None


def _time(field: str, value: Any) -> datetime:
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (ValueError, TypeError):
        time = None
    if time is None or time.tzinfo is None:
        raise RowError(f"{field}: must be a time with a time zone, such as 2026-11-26T00:15:44Z")
    return time


def _plain(value: Any) -> Any:
    """Returns a value of a Parquet file as JSON has it: times as text, bytes as text, nothing that is absent."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
