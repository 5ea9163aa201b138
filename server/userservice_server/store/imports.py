"""Applies the rows of imports in Redis; domain/import_ports.py describes the interface."""

import asyncio
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from userservice_server.domain import ports
from userservice_server.domain.import_ports import Applied, ImportRows, ImportState, Opening, Reply, RowErrors
from userservice_server.store import scripts
from userservice_server.store.keys import Table, own_table
from userservice_server.store.redis_store import RedisStore, optional_number
from userservice_server.wire.emails import key_of_new, key_of_record
from userservice_server.wire.outcomes import Code

T = TypeVar("T")

_TURN_ROWS = 64  # rows between two turns of the event loop

_OPENINGS = {Code.EXISTS.value: Opening.NOT_EMPTY, Code.REQUEST_ID_REUSED.value: Opening.OTHER_MODE}
_ENDS = {Code.CONFLICT.value: Applied.CONFLICT, Code.NOT_FOUND.value: Applied.NOT_FOUND}
_KINDS = {b"applied": Applied.DONE, b"moved": Applied.MOVED}


class RedisImports:
    """The imports in a store.

    Args:
        store: runs the scripts.
        exists_status: the encoded field ``status`` of the error of a row whose user exists.
        in_use_status: the same for a restored row whose id is in use.
    """

    def __init__(self, store: RedisStore, exists_status: bytes, in_use_status: bytes) -> None:
        self._store = store
        self._statuses = (exists_status, in_use_status)

    async def open(self, table: ports.Table, import_id: str, mode: str, *, restores: bool) -> ImportState | Opening:
        """Creates the state of an import in a partition, or returns the state of an import with the same mode."""
        own = own_table(table)
        redis_keys = (own.rows, own.index, own.import_prefix + import_id.encode())
        reply = await self._store.write(scripts.IMPORT_OPEN, own, redis_keys, (mode, int(restores)))
        if restores and not isinstance(reply, bytes):
            await self._store.allow_older_ids()
        return self._parsed(lambda: _OPENINGS[reply] if isinstance(reply, bytes) else ImportState(*reply))

    async def apply(self, table: ports.Table, import_id: str, rows: ImportRows) -> Reply:
        """Applies rows and records their offset, both in one atomic step."""
        own = own_table(table)
        redis_keys = (own.rows, own.index, own.last_id, *_import_keys(own, import_id), *own.email_index)
        arguments = [*self._options(own, rows), *await _row_arguments(rows.rows)]
        reply = await self._store.write(scripts.IMPORT, own, redis_keys, arguments)
        return self._parsed(lambda: _reply(reply))

    def _options(self, own: Table, rows: ImportRows) -> list[bytes | str | int]:
        """Returns the arguments of the script before those of the rows."""
        places = struct.pack(f"<{len(rows.indexes)}H", *(index - rows.start for index in rows.indexes))
        added, merged, replaced = rows.counts
        arguments: list[bytes | str | int] = [own.partition, rows.start, rows.stop, rows.if_exists.value]
        arguments += (int(rows.writes), int(rows.restores), *self._statuses, merged, replaced, added, places)
        arguments.append(len(rows.rejected))
        for rejected in rows.rejected:
            arguments += rejected
        return arguments

    async def read(self, table: ports.Table, import_id: str, lowest: int, limit: int) -> RowErrors | None:
        """Returns the state and up to ``limit`` errors of rows from ``lowest`` on; None if there is no such import."""
        own = own_table(table)
        reply = await self._store.read(scripts.IMPORT_READ, own, _import_keys(own, import_id), (lowest, limit))
        if reply == Code.NOT_FOUND.value:
            return None
        return self._parsed(lambda: _row_errors(*reply))

    def _parsed(self, parse: Callable[[], T]) -> T:
        """Returns the parsed reply; distrusts the connection if the reply belongs to another command."""
        try:
            return parse()
        except (KeyError, TypeError, ValueError):
            self._store.distrust()
            raise


async def _row_arguments(rows: Sequence[tuple[str, bytes, bytes]]) -> list[bytes | str | int]:
    """Returns the arguments of the script for the rows."""
    arguments: list[bytes | str | int] = []
    for place, (user_id, old, new) in enumerate(rows, 1):
        is_record = bool(old)  # see ImportRows.rows
        email_key = (key_of_record if is_record else key_of_new)(new)
        arguments += (user_id, old, new, optional_number(email_key))
        if place % _TURN_ROWS == 0:
            await asyncio.sleep(0)  # other calls run
    return arguments


def _import_keys(own: Table, import_id: str) -> tuple[bytes, bytes]:
    """Returns the keys of the state and the row errors of an import."""
    return own.import_prefix + import_id.encode(), own.import_errors_prefix + import_id.encode()


def _reply(reply: Any) -> Reply:
    if isinstance(reply, bytes):
        return Reply(_ENDS[reply])
    kind, numbers, *errors = reply
    return Reply(_KINDS[kind], ImportState(*numbers), errors[0] if errors else ())


def _row_errors(numbers: Sequence[int], errors: Sequence[bytes]) -> RowErrors:
    pairs = zip(map(int, errors[1::2]), errors[::2], strict=True)
    return RowErrors(ImportState(*numbers), list(pairs))
