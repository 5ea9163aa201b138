"""Imports: bulk writes of users, of which each row is applied exactly once."""

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b

from userservice.v1.user_import_pb2 import (
    ON_DUPLICATE_FAIL,
    ON_DUPLICATE_MERGE,
    ON_DUPLICATE_REPLACE,
    ON_DUPLICATE_SKIP,
    GetImportResponse,
    ImportUsersResponse,
)
from userservice.v1.user_pb2 import User
from userservice_server.domain.entities import MAX_ROUNDS, Entities, conflict
from userservice_server.domain.import_merging import Plan, planned
from userservice_server.domain.import_ports import (
    Applied,
    IfExists,
    ImportRows,
    ImportState,
    ImportStore,
    Opening,
    Reply,
    RowErrors,
)
from userservice_server.domain.import_rows import Fields, Row, RowDecoder, StatusField
from userservice_server.domain.ports import RecordStore, Table
from userservice_server.errors import (
    ImportIdReusedError,
    ImportNotFoundError,
    ImportOffsetGapError,
    InvalidFieldsError,
    UserAlreadyExistsError,
    UserNotFoundError,
    Violation,
)
from userservice_server.wire.imports import MAX_ROW_ERRORS, index_in

_SCRIPT_ROWS = 200  # rows in one script; commands of other callers can run between two scripts
_IF_EXISTS: dict[int, IfExists] = {ON_DUPLICATE_FAIL: IfExists.FAIL, ON_DUPLICATE_SKIP: IfExists.SKIP}
CHANGING = (ON_DUPLICATE_MERGE, ON_DUPLICATE_REPLACE)
"""The values of on_duplicate with which an import changes users."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of an import; protos/userservice/v1/user_import.proto describes them."""

    import_id: str
    on_duplicate: int
    validate_only: bool
    restore: bool
    digest: str

    @property
    def mode(self) -> str:
        """A digest of the options that must be the same in all calls with one import_id."""
        options = (self.on_duplicate, self.validate_only, self.restore, self.digest)
        return blake2b(repr(options).encode(), digest_size=16).hexdigest()


@dataclass(slots=True)
class _Part:
    """An import in one partition.

    Attributes:
        table: the users of the partition.
        state: the state of the import.
        earlier_errors: index and framed error of rows that other calls with this import_id have applied, and whose
            errors this call has not returned yet, ordered by index.
    """

    table: Table
    state: ImportState
    earlier_errors: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of a batch that were not applied before, and the offset after the batch."""

    rows: Sequence[Row]
    stop: int


@dataclass(slots=True)
class Import:
    """A running import.

    Attributes:
        options: the options of the import.
        next_offset: a batch must not start above this offset.
    """

    options: Options
    next_offset: int = field(init=False)
    _store: RecordStore
    _imports: ImportStore
    _parts: list[_Part]
    _decoder: RowDecoder
    _status_field: StatusField
    _users: Entities[User] = field(init=False)

    def __post_init__(self) -> None:
        self.next_offset = self.acked_offset
        self._users = Entities(self._store, User, UserNotFoundError, UserAlreadyExistsError)

    @property
    def acked_offset(self) -> int:
        """The rows below this offset are applied."""
        return min(part.state.applied for part in self._parts)

    @property
    def totals(self) -> ImportState:
        """The offset, and the counts of all partitions together."""
        return total(part.state for part in self._parts)

    def response(self, row_errors: Sequence[bytes] = ()) -> bytes:
        """Encodes an ImportUsersResponse with the present state and these framed row errors."""
        response = ImportUsersResponse()
        _fill(response, self.totals)
        return b"".join((response.SerializeToString(), *row_errors))

    async def decode(self, users: Sequence[bytes], offset: int) -> Batch:
        """Decodes a batch of encoded users, which starts at row ``offset``.

        Raises:
            ImportOffsetGapError: rows before the batch are missing.
        """
        if offset > self.next_offset:
            text = f"the batch starts at offset {offset}, but the import continues at {self.next_offset}"
            raise ImportOffsetGapError(text, next_offset=self.next_offset)
        stop = offset + len(users)
        self.next_offset = max(self.next_offset, stop)
        return Batch(await self._decoder.decode(users, offset, self.acked_offset), stop)

    async def apply(self, batch: Batch) -> bytes:
        """Applies a batch; returns the encoded response, which has the errors of all rows below its offset."""
        tables = self._store.tables
        if len(self._parts) == 1:
            errors = await self._apply(self._parts[0], batch.rows, batch.stop)
        else:
            rows: dict[Table, list[Row]] = {part.table: [] for part in self._parts}
            for row in batch.rows:
                rows[tables.users(row.user_id)].append(row)
            applying = (self._apply(part, rows[part.table], batch.stop) for part in self._parts)
            errors = [error for errors in await asyncio.gather(*applying) for error in errors]
        if self.options.restore:
            await self._store.fence()  # restored ids may be from other partitions or from a clock that was ahead
        return self.response([error for _, error in sorted([*self._acked_errors(), *errors])])

    async def read_earlier_errors(self) -> None:
        """Reads the errors of rows that only some partitions have applied: an earlier call ended within a batch."""
        for part in self._parts:
            if part.state.applied > self.acked_offset:
                await self._read_earlier_errors(part, self.acked_offset)

    async def _read_earlier_errors(self, part: _Part, start: int) -> None:
        found = await self._imports.read(part.table, self.options.import_id, start, MAX_ROW_ERRORS)
        if found is not None:
            part.earlier_errors += [error for error in found.errors if error[0] < part.state.applied]

    def _acked_errors(self) -> list[tuple[int, bytes]]:
        """Removes and returns the earlier errors of rows that all partitions have now applied."""
        taken: list[tuple[int, bytes]] = []
        for part in self._parts:
            stop = bisect_left(part.earlier_errors, (self.acked_offset, b""))
            taken += part.earlier_errors[:stop]
            del part.earlier_errors[:stop]
        return taken

    async def _apply(self, part: _Part, rows: Sequence[Row], stop: int) -> list[tuple[int, bytes]]:
        """Applies the rows of a partition up to ``stop``; returns the index and framed error of each failed row."""
        errors: list[tuple[int, bytes]] = []
        for _ in range(MAX_ROUNDS):
            start = part.state.applied
            if start >= stop:
                return errors
            chunks = _chunks([row for row in rows if row.number >= start], start, stop)
            if self.options.on_duplicate in CHANGING:
                errors += await self._change(part, *chunks[0])
                continue
            # One script after the other: the store runs commands of other connections between two scripts, but not
            # between commands that are sent together.
            for chunk in chunks:
                reply = await self._imports.apply(part.table, self.options.import_id, self._added(*chunk))
                errors += await self._accept(part, chunk[0], reply)
                if reply.applied is not Applied.DONE:
                    break
        raise conflict()

    def _added(self, rows: Sequence[Row], start: int, stop: int) -> ImportRows:
        """Returns the rows for a script that adds users."""
        valid = [row for row in rows if not row.error]
        if self.options.restore:
            arguments = [(row.user_id, b"%d" % row.id, row.content) for row in valid]
        else:
            arguments = [(row.user_id, b"", row.content) for row in valid]
        return ImportRows(
            start,
            stop,
            _IF_EXISTS[self.options.on_duplicate],
            arguments,
            [row.number for row in valid],
            [(row.number, row.error) for row in rows if row.error],
            writes=not self.options.validate_only,
            restores=self.options.restore,
        )

    async def _change(self, part: _Part, rows: Sequence[Row], start: int, stop: int) -> list[tuple[int, bytes]]:
        """Applies rows that may change users; returns the errors of failed rows. Applies nothing after a conflict."""
        user_ids = list(dict.fromkeys(row.user_id for row in rows if not row.error))
        records = await self._store.reread(partial(self._read, part.table, user_ids)) if user_ids else []
        present = {user_id: record for user_id, record in zip(user_ids, records, strict=True) if record is not None}
        self._users.check_keys([*present.values()], [*present])
        whole = self.options.on_duplicate == ON_DUPLICATE_REPLACE
        plan = await planned(rows, present, whole=whole, status_field=self._status_field)
        changed = ImportRows(
            start,
            stop,
            IfExists.CONFLICT,
            plan.rows,
            (),
            plan.rejected,
            (plan.added, 0 if whole else plan.changed, plan.changed if whole else 0),
            writes=not self.options.validate_only,
        )
        reply = await self._imports.apply(part.table, self.options.import_id, changed)
        return await self._accept(part, rows, reply, plan)

    async def _read(self, table: Table, user_ids: Sequence[str]) -> "list[bytes | None]":
        return await self._store.get_many(table, user_ids, self._store.identity)

    async def _accept(
        self, part: _Part, rows: Sequence[Row], reply: Reply, plan: Plan | None = None
    ) -> list[tuple[int, bytes]]:
        """Takes the state from a reply; returns the errors of the rows that it applied."""
        known = part.state.applied
        match reply.applied:
            case Applied.CONFLICT:
                return []
            case Applied.NOT_FOUND:
                raise ImportNotFoundError("the store has no import with this import_id any more")
            case Applied.MOVED if reply.state.applied < known:
                text = f"the store lost rows that were applied: the import continues at {reply.state.applied}"
                raise ImportOffsetGapError(text, next_offset=reply.state.applied)
            case Applied.MOVED:
                # Another call with this import_id has applied rows since this call read the state.
                part.state = reply.state
                await self._read_earlier_errors(part, known)
                return []
        part.state = reply.state
        rejected = plan.rejected if plan else [(row.number, row.error) for row in rows if row.error]
        return sorted((*rejected, *((index_in(error), error) for error in reply.errors)))


def _fill(response: ImportUsersResponse | GetImportResponse, state: ImportState) -> None:
    response.acked_offset, response.added, response.merged, response.replaced, response.skipped, response.failed = state


def _fields(options: Options) -> Fields:
    if options.restore:
        return Fields.ALL
    return Fields.CALLERS if options.on_duplicate in CHANGING else Fields.NEW


def _chunks(rows: Sequence[Row], start: int, stop: int) -> list[tuple[Sequence[Row], int, int]]:
    """Splits rows for scripts; each chunk is its rows, the offset at which it starts, and the offset after it."""
    starts = [start, *(row.number for row in rows[_SCRIPT_ROWS::_SCRIPT_ROWS])]
    return [
        (rows[place * _SCRIPT_ROWS : (place + 1) * _SCRIPT_ROWS], first, end)
        for place, (first, end) in enumerate(zip(starts, [*starts[1:], stop], strict=True))
    ]


def total(states: Iterable[ImportState]) -> ImportState:
    """Returns the smallest offset, and the sums of the counts."""
    applied, *counts = zip(*states, strict=True)
    return ImportState(min(applied), *map(sum, counts))


class Imports:
    """Opens imports, and returns the state of imports.

    Args:
        store: the store of the users.
        imports: the store of the imports.
        status_field: encodes the errors of rows.
    """

    def __init__(self, store: RecordStore, imports: ImportStore, status_field: StatusField) -> None:
        self._store = store
        self._imports = imports
        self._status_field = status_field

    async def open(self, options: Options) -> Import:
        """Opens a new import, or continues an import."""
        parts = []
        for table in self._store.tables.all_users():
            state = await self._imports.open(table, options.import_id, options.mode, restores=options.restore)
            if state is Opening.OTHER_MODE:
                text = "the import_id was used for an import with other options or another digest; nothing was changed"
                raise ImportIdReusedError(text)
            if state is Opening.NOT_EMPTY:
                raise InvalidFieldsError([Violation("restore", "needs a store without users, and the store has users")])
            if isinstance(state, ImportState):
                parts.append(_Part(table, state))
        decoder = RowDecoder(self._status_field, _fields(options))
        opened = Import(options, self._store, self._imports, parts, decoder, self._status_field)
        await opened.read_earlier_errors()
        if options.restore:
            await self._store.fence()  # an earlier call may have ended before its fence
        return opened

    async def get(self, import_id: str, limit: int, cursor: int) -> bytes:
        """Returns the state of an import, and a page of row errors, as an encoded GetImportResponse."""
        found: list[RowErrors] = []
        for table in self._store.tables.all_users():
            errors = await self._imports.read(table, import_id, cursor, limit + 1)
            if errors is None:
                raise ImportNotFoundError("no import has this import_id, or it has expired")
            found.append(errors)
        response = GetImportResponse()
        _fill(response, total(each.state for each in found))
        row_errors = sorted(error for each in found for error in each.errors)
        if len(row_errors) > limit:
            response.next_cursor = row_errors[limit - 1][0] + 1
        return b"".join((response.SerializeToString(), *(error for _, error in row_errors[:limit])))
