"""The interface between the domain and the store of imports, which ``store/imports.py`` implements on Redis."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from userservice_server.domain.ports import Table


class ImportState(NamedTuple):
    """The state of an import in a partition: the offset up to which its rows are applied, and numbers of rows."""

    applied: int = 0
    added: int = 0
    merged: int = 0
    replaced: int = 0
    skipped: int = 0
    failed: int = 0


class IfExists(Enum):
    """What a script does with a row without an old record whose user exists."""

    FAIL = "FAIL"
    SKIP = "SKIP"
    CONFLICT = "CONFLICT"  # the server has found no user: apply nothing


@dataclass(frozen=True, slots=True)
class ImportRows:
    """The rows of one partition that one script applies.

    Attributes:
        start: the rows of the partition below this offset must be applied already.
        stop: the offset afterwards.
        if_exists: what to do with a row without an old record whose user exists.
        rows: for each row: user_id, old record, new record. Without an old record, new contains the encoded fields
            after the id; if the rows are restored, old is the id and new is the whole record.
        indexes: the number of each row in the import; may be empty with CONFLICT, where no row fails in the script.
        rejected: index and framed RowError of each row that the server has rejected.
        counts: numbers of rows that the server has added, merged and replaced; the script counts other rows.
        writes: whether the users are written, or only checked.
        restores: whether the rows keep their ids.
    """

    start: int
    stop: int
    if_exists: IfExists
    rows: Sequence[tuple[str, bytes, bytes]]
    indexes: Sequence[int]
    rejected: Sequence[tuple[int, bytes]]
    counts: tuple[int, int, int] = (0, 0, 0)
    writes: bool = True
    restores: bool = False


class Opening(Enum):
    """Why an import cannot be opened."""

    NOT_EMPTY = "the import would restore users, and the store has users"
    OTHER_MODE = "there is an import with this import_id and another mode"


class Applied(Enum):
    """How a script with rows ended."""

    DONE = "the rows are applied"
    MOVED = "nothing was written: the server expected another offset"
    CONFLICT = "nothing was written: a user has changed since the server has read it"
    NOT_FOUND = "there is no import with this import_id"


class Reply(NamedTuple):
    """The result of a script with rows: how it ended, the state, and framed errors of rows that failed in the script.

    After CONFLICT and NOT_FOUND, the state is empty.
    """

    applied: Applied
    state: ImportState = ImportState()
    errors: Sequence[bytes] = ()


class RowErrors(NamedTuple):
    """The state of an import in a partition, and row errors: index and framed RowError, ordered by index."""

    state: ImportState
    errors: list[tuple[int, bytes]]


class ImportStore(Protocol):
    """Applies the rows of imports. All methods raise the same errors as RecordStore."""

    async def open(self, table: Table, import_id: str, mode: str, *, restores: bool) -> ImportState | Opening:
        """Creates the state of an import in a partition, or returns the state of an import with the same mode."""

    async def apply(self, table: Table, import_id: str, rows: ImportRows) -> Reply:
        """Applies rows and records their offset, both in one atomic step."""

    async def read(self, table: Table, import_id: str, lowest: int, limit: int) -> RowErrors | None:
        """Returns the state and up to ``limit`` errors of rows from ``lowest`` on; None if there is no such import."""
