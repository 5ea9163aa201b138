"""Reads the rows of files for an import: JSON lines, CSV and Parquet.

A row that cannot be read does not end the import: it has an error instead of values, and keeps its place.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from userservice.cli.exit_codes import USAGE, CommandError

ERROR_COLUMN, TEXT_COLUMN = "import_error", "import_text"
"""Additional columns of a file of failed rows: the reason and, for an unreadable row, the text of the row."""

_LARGEST_ROW = 2 << 20
_SAMPLE = 20  # number of rows; if none of the first rows is readable, the file has another format
_NEWLINE = b"\n"
_OTHER_FORMATS = (
    (b"PAR1", "is a Parquet file; use --format parquet"),
    (b"\x1f\x8b", "is compressed with gzip; decompress it first"),
    (b"(\xb5/\xfd", "is compressed with zstd; decompress it first"),
    (b"PK\x03\x04", "is a ZIP file or a spreadsheet; export it as CSV"),
    (b"\xff\xfe", "is UTF-16; convert it to UTF-8 first"),
    (b"\xfe\xff", "is UTF-16; convert it to UTF-8 first"),
)


class Row(NamedTuple):
    """A row of a file."""

    values: dict[str, Any]
    """The values by column; empty if the row cannot be read."""

    error: str = ""
    """Why the row cannot be read; empty if it can."""

    text: str = ""
    """The text of a row that cannot be read."""


class Source(Protocol):
    """A file with rows."""

    columns: Sequence[str] | None
    """The names of the columns; None if each row has its own."""

    def __iter__(self) -> Iterator[Row]:
        """Yields the rows from the beginning."""
        ...


def open_source(path: Path, kind: str) -> Source:
    """Opens a file.

    Raises:
        CommandError: If the file cannot be read, or has another format.
    """
    with explained(path):
        with path.open("rb") as file:
            start = file.read(4)
        for magic, what in _OTHER_FORMATS:
            if start.startswith(magic) and not (kind == "parquet" and magic == b"PAR1"):
                raise CommandError(f"{path} {what}", USAGE)
        source: Source = _SOURCES[kind](path)
        _check_sample(path, source)
    return source


def _check_sample(path: Path, source: Source) -> None:
    first = ""
    for _, row in zip(range(_SAMPLE), source, strict=False):
        if not row.error:
            return
        first = first or row.error
    if first:
        raise CommandError(f"no row of {path} is readable (row 1: {first}); is it another format? See --format", USAGE)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns errors of reading a file into errors of the command."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", USAGE) from None


class JsonLines:
    """A file with one JSON object per line. Empty lines are no rows."""

    columns = None

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[Row]:
        """Yields the rows."""
        with explained(self._path), self._path.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":  # a byte order mark
                file.seek(0)
            while line := file.readline(_LARGEST_ROW):
                if not line.endswith(_NEWLINE) and len(line) == _LARGEST_ROW:
                    _skip_line(file)
                    yield Row({}, f"the row is larger than {_LARGEST_ROW >> 20} MiB")
                elif line.strip():
                    yield _parse_json(line)


def _skip_line(file: IO[bytes]) -> None:
    while (rest := file.readline(_LARGEST_ROW)) and not rest.endswith(_NEWLINE):
        pass


def _parse_json(line: bytes) -> Row:
    try:
        text = line.decode().strip()
    except UnicodeDecodeError:
        return Row({}, "the row is not UTF-8", line.decode(errors="replace").strip())
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        return Row({}, f"the row is not valid JSON{place}", text)
    return Row(values) if isinstance(values, dict) else Row({}, "the row is not a JSON object", text)


class Csv:
    """A file of comma-separated values with a header."""

    def __init__(self, path: Path) -> None:
        self._path = path
        csv.field_size_limit(_LARGEST_ROW)
        rows = self._rows()
        self.columns: Sequence[str] = next(rows, [])
        rows.close()
        if not self.columns:
            raise CommandError(f"{path} has no header", USAGE)
        if twice := sorted({column for column in self.columns if self.columns.count(column) > 1}):
            raise CommandError(f"the header of {path} has columns with the same name: {', '.join(twice)}", USAGE)

    def _rows(self) -> Any:
        """Yields the rows as lists; a string is the error of a row."""
        with explained(self._path), self._path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file)
            while True:
                try:
                    row: list[str] = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield f"the row is not valid CSV: {error}"
                else:
                    if row:
                        yield row

    def __iter__(self) -> Iterator[Row]:
        """Yields the rows."""
        rows = self._rows()
        next(rows, None)
        for row in rows:
            yield Row({}, row) if isinstance(row, str) else self._row(row)

    def _row(self, row: list[str]) -> Row:
        text = ",".join(row)
        if not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text):
            return Row({}, "the row is not UTF-8", text.encode(errors="surrogateescape").decode(errors="replace"))
        if len(row) != len(self.columns):
            return Row({}, f"the row has {len(row)} columns, and the header {len(self.columns)}", text)
        return Row(dict(zip(self.columns, row, strict=True)))


class Parquet:
    """A Parquet file."""

    _ROWS = 1000

    def __init__(self, path: Path) -> None:
        from userservice.cli.parquet import require_pyarrow  # noqa: PLC0415 - an extra

        self._pa = require_pyarrow()
        self._path = path
        with self._open() as file:
            self.columns: Sequence[str] = file.schema_arrow.names

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with self._pa.parquet.ParquetFile(self._path) as file:
                yield file
        except self._pa.ArrowException as error:
            reason = str(error).partition("\n")[0]
            raise CommandError(f"cannot read {self._path} as Parquet: {reason}", USAGE) from None

    def __iter__(self) -> Iterator[Row]:
        """Yields the rows. A null counts as an absent value."""
        with self._open() as file:
            # pyarrow returns a map as a list of pairs.
            maps = [field.name for field in file.schema_arrow if self._pa.types.is_map(field.type)]
            for batch in file.iter_batches(batch_size=self._ROWS):
                for row in batch.to_pylist():
                    row.update({name: dict(row[name]) for name in maps if row[name] is not None})
                    yield Row(_without_nulls(row))


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """Returns values without nulls, also in structs: a column of structs has all keys in each row."""
    return {
        name: _without_nulls(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }


_SOURCES: dict[str, Any] = {"jsonl": JsonLines, "csv": Csv, "parquet": Parquet}


def write_failed(path: Path, source: Source, kind: str, errors: dict[int, str]) -> int:
    """Writes the rows that failed, with their reasons, in the format of the source.

    Args:
        path: The file to write.
        source: The rows of the import.
        kind: The format.
        errors: The reasons by number of the row, counted from 0, of rows that the service rejected.

    Returns:
        The number of rows in the file.

    Raises:
        CommandError: If the file cannot be written.
    """
    found = (
        (row, row.error or errors[number])
        for number, row in zip(count(), source, strict=False)
        if row.error or number in errors
    )
    return _WRITERS[kind](path, source.columns or (), found)


def _write_json_lines(path: Path, _columns: Sequence[str], found: Iterator[tuple[Row, str]]) -> int:
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for row, reason in found:
            values = row.values if row.values or not row.text else {TEXT_COLUMN: row.text}
            file.write(json.dumps({**values, ERROR_COLUMN: reason}, ensure_ascii=False) + "\n")
            written += 1
    return written


def _write_csv(path: Path, columns: Sequence[str], found: Iterator[tuple[Row, str]]) -> int:
    written = 0
    names = [*(column for column in columns if column not in (TEXT_COLUMN, ERROR_COLUMN)), TEXT_COLUMN, ERROR_COLUMN]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore", restval="")
        writer.writeheader()
        for row, reason in found:
            writer.writerow({**row.values, TEXT_COLUMN: row.text, ERROR_COLUMN: reason})
            written += 1
    return written


def _write_parquet(path: Path, columns: Sequence[str], found: Iterator[tuple[Row, str]]) -> int:
    from userservice.cli.parquet import write_rows  # noqa: PLC0415 - an extra

    return write_rows(path, columns, ({**row.values, ERROR_COLUMN: reason} for row, reason in found))


_WRITERS = {"jsonl": _write_json_lines, "csv": _write_csv, "parquet": _write_parquet}
