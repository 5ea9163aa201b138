"""Reads and writes Parquet files. Needs pyarrow, the extra `parquet`.

A Parquet file ends with an index of its content, so an unfinished one cannot be continued. Until an export is complete,
its rows are in the streaming format of Arrow, which can be cut and continued after each batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from userservice._columns import metadata_texts, times
from userservice.cli.exit_codes import USAGE, CommandError
from userservice.cli.records import Sessions, columns, sessions_text

if TYPE_CHECKING:
    from userservice import User

_ROWS_PER_GROUP = 65_536


def require_pyarrow() -> Any:
    """Imports pyarrow.

    Raises:
        CommandError: If it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
        import_module("pyarrow.ipc")
        return import_module("pyarrow")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "pyarrow":
            raise
        raise CommandError("Parquet needs pyarrow; pip install 'userservice[parquet]'", USAGE) from None


class ArrowEncoder:
    """Encodes users as batches of the streaming format of Arrow.

    Args:
        with_sessions: Whether the users have sessions.
    """

    def __init__(self, *, with_sessions: bool) -> None:
        self._pa = require_pyarrow()
        self._schema = _schema(self._pa, with_sessions=with_sessions)

    def header(self) -> bytes:
        """Returns the beginning of a file."""
        return bytes(self._schema.serialize())

    def encode(self, users: Sequence[User], sessions: Sessions) -> bytes:
        """Returns a batch of users."""
        pa = self._pa
        values = zip(_values(users, sessions), self._schema, strict=True)
        arrays = [pa.array(column, field.type) for column, field in values]
        return bytes(pa.record_batch(arrays, schema=self._schema).serialize())


def _schema(pa: Any, *, with_sessions: bool) -> Any:
    types = {"id": pa.int64(), "created_at": pa.timestamp("us", "UTC"), "updated_at": pa.timestamp("us", "UTC")}
    names = columns(with_sessions=with_sessions)
    return pa.schema([pa.field(name, types.get(name, pa.string()), nullable=False) for name in names])


def _values(users: Sequence[User], sessions: Sessions) -> Iterator[list[Any]]:
    """Yields the values of each column."""
    yield [user.user_id for user in users]
    yield [user.id for user in users]
    yield [user.uuid for user in users]
    yield [user.email for user in users]
    yield [user.first_name for user in users]
    yield [user.last_name for user in users]
    yield metadata_texts(users)
    yield times(users, "created_at")
    yield times(users, "updated_at")
    yield [user.etag for user in users]
    if sessions is not None:
        yield [sessions_text(of_user) for of_user in sessions]


def convert(source: IO[bytes], target: IO[bytes]) -> None:
    """Writes a file in the streaming format of Arrow as a Parquet file."""
    pa = require_pyarrow()
    reader = pa.ipc.open_stream(source)
    with pa.parquet.ParquetWriter(target, reader.schema, compression="zstd") as writer:
        batches: list[Any] = []
        rows = 0
        for batch in reader:
            batches.append(batch)
            rows += batch.num_rows
            if rows >= _ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_batches(batches))
                batches, rows = [], 0
        if batches:
            writer.write_table(pa.Table.from_batches(batches))


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes rows with the columns of another file, and further columns, which are texts.

    Values keep their types if pyarrow can find them out; returns the number of rows.
    """
    pa = require_pyarrow()
    values = [dict(row) for row in rows]
    names = [*columns, *(name for name in (values[0] if values else ()) if name not in columns)]
    table = pa.table({name: [row.get(name) for row in values] for name in names})
    pa.parquet.write_table(table, path)
    return len(values)
