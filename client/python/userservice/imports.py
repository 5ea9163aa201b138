"""The state of an import, and the rows that an import accepts; see `UserManager.import_users`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from userservice.errors import InvalidArgumentError, UserServiceError
from userservice.models import User

ImportRow: TypeAlias = Mapping[str, Any] | User | InvalidArgumentError
"""A row of an import: the fields of a user by name, a User, or the error of a row that the caller could not read.

If a row is an error, the row fails with this error and counts as a row of the import.
"""

OnDuplicate: TypeAlias = Literal["FAIL", "SKIP", "MERGE", "REPLACE"]
"""What an import does with a row whose user exists already.

FAIL: the row fails with UserAlreadyExistsError. SKIP: the user is not changed. MERGE: fields that are not empty replace
the old values, and metadata is merged (RFC 7396). REPLACE: email, first_name, last_name and metadata are replaced.
"""

MOST_ROW_ERRORS = 10_000
"""Maximum number of row errors that the service, and the result of an import, keep."""


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that failed."""

    index: int
    """Number of the row in the import, counted from 0."""

    error: UserServiceError
    """Why the row failed: usually InvalidArgumentError or UserAlreadyExistsError."""


@dataclass(frozen=True, slots=True)
class ImportStatus:
    """The state of an import."""

    import_id: str
    """Identifies the import, a UUID."""

    offset: int
    """The rows below this number are applied; a resumed import continues here."""

    added: int
    """Number of rows that added a user."""

    merged: int
    """Number of rows that were merged into a user."""

    replaced: int
    """Number of rows that replaced a user."""

    skipped: int
    """Number of rows that were skipped, because their user existed."""

    failed: int
    """Number of rows that failed."""

    row_errors: list[RowError]
    """Rows that failed, ordered by index: at most the first 10 000 of the import. In a progress callback, the rows that
    failed since the previous call."""
