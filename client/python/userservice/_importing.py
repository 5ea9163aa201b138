"""Sends the rows of an import, and resumes the import after lost connections and restarts of the server."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from userservice._connection import Connection, Exchange, decode
from userservice._import_messages import (
    MOST_BATCH_BYTES,
    MOST_BATCH_ROWS,
    encoded_batch,
    encoded_row,
    row_errors_of,
    status_of,
)
from userservice._methods import GET_IMPORT, IMPORT_USERS
from userservice._retry import Attempts
from userservice._transport import Progress, Rows, RowSource, Waiting, report, sleep
from userservice.errors import ImportOffsetGapError, UserServiceError
from userservice.imports import MOST_ROW_ERRORS, ImportStatus, RowError
from userservice.requests import build_request
from userservice.v1.user_import_pb2 import GetImportResponse, ImportOptions, ImportUsersRequest, ImportUsersResponse

MOST_BATCHES = 4
"""Maximum number of batches without a response; they stay in memory, because they may have to be sent again."""

_ROWS_PER_TURN = 100
_LARGEST_PAGE = 1000

StateT = TypeVar("StateT", ImportUsersResponse, GetImportResponse)


class _Batch(NamedTuple):
    """An encoded batch, and the offset after its last row."""

    encoded: bytes
    stop: int


class Importer:
    """Runs one import.

    Args:
        connection: The connection of the manager.
        rows: The rows.
        options: The options of the import.
        offset: The number of the first of these rows.
        timeout: Seconds to wait for each response; None means the timeout of the connection.
        on_progress: Called after each response.
    """

    def __init__(
        self,
        connection: Connection,
        rows: RowSource,
        options: ImportOptions,
        offset: int,
        timeout: float | None,
        on_progress: Progress | None,
    ) -> None:
        connection.attempts(timeout)  # checks the timeout
        self._connection = connection
        self._rows = Rows(rows)
        self._options = options
        self._timeout = timeout
        self._on_progress = on_progress
        self._exchange: Exchange | None = None
        self._window: deque[_Batch] = deque()
        self._sent = 0  # number of batches in the window that were sent over the present exchange
        self._next = offset  # the number of the next row of the source
        self._encoded: deque[bytes] = deque()  # rows that are in no batch yet
        self._encoded_bytes = 0
        self._own_errors: dict[int, UserServiceError] = {}  # of rows that this client rejected
        self._status = ImportStatus(options.import_id, 0, 0, 0, 0, 0, 0, [])
        self._errors: list[RowError] = []
        self._unreported: list[RowError] = []
        self._has_news = False

    async def run(self) -> ImportStatus:
        """Sends all rows; returns the final state.

        Raises:
            UserServiceError: If the service rejected the import, or did not respond before the deadline.
        """
        try:
            await self._persist(self._nothing)
            await self._report()
            await self._skip_applied()
            while True:
                while len(self._window) < MOST_BATCHES and await self._read_batch():
                    await self._persist(self._send)
                if not self._window:
                    break
                await self._persist(self._receive)
                await self._report()
            await self._finish()
        finally:
            self.cancel()
        return self._snapshot(self._errors)

    def cancel(self) -> None:
        """Ends the running RPC immediately."""
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None

    async def _persist(self, step: Callable[[Attempts], Waiting]) -> None:
        """Runs a step of the import, and repeats it over a new exchange until its deadline."""
        attempts = self._connection.attempts(self._timeout)
        while True:
            try:
                if self._exchange is None:
                    await self._open(attempts)
                await step(attempts)
            except UserServiceError as error:
                self.cancel()
                await attempts.pause(error, error.__cause__)
            else:
                return

    async def _nothing(self, _attempts: Attempts) -> None:
        """The step that only opens the import."""

    async def _open(self, attempts: Attempts) -> None:
        """Opens the import; takes the response, which contains the offset at which to continue."""
        self._exchange = await self._connection.open_exchange(IMPORT_USERS, attempts)
        self._sent = 0
        options = ImportUsersRequest(options=self._options)
        await self._connection.write(self._exchange, options.SerializeToString(), attempts)
        response = await self._next_response(attempts)
        lost = []
        if response.acked_offset > self._status.offset:
            # The responses with the errors of these rows did not arrive.
            lost = await self._lost_errors(self._status.offset, response.acked_offset, attempts)
        self._accept(response, lost)

    async def _lost_errors(self, start: int, stop: int, attempts: Attempts) -> list[RowError]:
        found = await read_errors(self._connection, self._options.import_id, start, attempts)
        return [error for error in found.row_errors if error.index < stop]

    async def _send(self, attempts: Attempts) -> None:
        """Sends the batches that were not sent over this exchange."""
        while self._exchange is not None and self._sent < len(self._window):
            await self._connection.write(self._exchange, self._window[self._sent].encoded, attempts)
            self._sent += 1

    async def _receive(self, attempts: Attempts) -> None:
        """Takes the response to the oldest batch."""
        await self._send(attempts)
        if not self._window:
            return  # the first response of a new exchange has acknowledged all batches
        response = await self._next_response(attempts)
        self._accept(response, row_errors_of(response))

    async def _next_response(self, attempts: Attempts) -> ImportUsersResponse:
        if self._exchange is None:
            raise AssertionError("the import is open")
        return decode(IMPORT_USERS, await self._connection.read(self._exchange, attempts))

    def _accept(self, response: ImportUsersResponse, errors: list[RowError]) -> None:
        """Takes the state from a response; removes the batches that are applied."""
        if response.acked_offset < self._status.offset:
            raise ImportOffsetGapError(
                f"the service has lost rows that it had applied: the import continues at row {response.acked_offset}; "
                "start the import again from this row"
            )
        errors = [RowError(error.index, self._own_errors.pop(error.index, error.error)) for error in errors]
        self._errors += errors[: MOST_ROW_ERRORS - len(self._errors)]
        self._status = status_of(self._options.import_id, response)
        while self._window and self._window[0].stop <= response.acked_offset:
            self._window.popleft()
            self._sent = max(0, self._sent - 1)
        self._unreported += errors
        self._has_news = True

    async def _report(self) -> None:
        """Reports the responses since the last report. Not within a step, because steps are retried after errors."""
        errors, self._unreported = self._unreported, []
        if self._has_news and self._on_progress is not None:
            await report(self._on_progress, self._snapshot(errors))
        self._has_news = False

    def _snapshot(self, errors: list[RowError]) -> ImportStatus:
        state = self._status
        counts = (state.added, state.merged, state.replaced, state.skipped, state.failed)
        return ImportStatus(state.import_id, state.offset, *counts, list(errors))

    async def _skip_applied(self) -> None:
        """Reads the rows that an earlier run has applied."""
        applied = self._status.offset
        if applied < self._next:
            raise ImportOffsetGapError(f"the import continues at row {applied}, but the rows start at {self._next}")
        while self._next < applied:
            skipped = await self._rows.take(min(applied - self._next, _ROWS_PER_TURN))
            if not skipped:
                return  # the source has fewer rows than the import
            self._next += len(skipped)
            await sleep(0)

    async def _read_batch(self) -> bool:
        """Adds the next batch to the window; returns False at the end of the rows."""
        while len(self._encoded) < MOST_BATCH_ROWS and self._encoded_bytes < MOST_BATCH_BYTES:
            rows = await self._rows.take(_ROWS_PER_TURN)
            if not rows:
                break
            for row in rows:
                self._add_row(row)
            await sleep(0)  # other tasks run
        batch: list[bytes] = []
        size = 0
        while self._encoded and len(batch) < MOST_BATCH_ROWS and size + len(self._encoded[0]) <= MOST_BATCH_BYTES:
            size += len(self._encoded[0])
            batch.append(self._encoded.popleft())
        self._encoded_bytes -= size
        if not batch:
            return False
        start = self._next - len(self._encoded) - len(batch)
        self._window.append(_Batch(encoded_batch(start, batch), start + len(batch)))
        return True

    def _add_row(self, row: object) -> None:
        encoded, error = encoded_row(row, restore=self._options.restore)
        if error is not None:
            self._own_errors[self._next] = error
        self._encoded.append(encoded)
        self._encoded_bytes += len(encoded)
        self._next += 1

    async def _finish(self) -> None:
        """Ends the RPC, so that the service does not log it as cancelled."""
        if self._exchange is not None:
            await self._connection.end(self._exchange)


async def read_errors(connection: Connection, import_id: str, cursor: int, attempts: Attempts) -> ImportStatus:
    """Returns the state of an import, with all row errors from row `cursor` on.

    Raises:
        UserServiceError: If the call failed.
    """
    errors: list[RowError] = []
    while True:
        fields = {"import_id": import_id, "limit": _LARGEST_PAGE, "cursor": cursor}
        response = await connection.call(GET_IMPORT, build_request(GET_IMPORT.request, fields), attempts)
        errors += row_errors_of(response)
        if response.next_cursor <= cursor:
            status = status_of(import_id, response)
            status.row_errors.extend(errors)
            return status
        cursor = response.next_cursor
