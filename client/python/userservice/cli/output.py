"""Prints users and sessions as a table, JSON, JSON lines or CSV."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from userservice.cli import streams

if TYPE_CHECKING:
    from userservice import Session, User

Function = TypeVar("Function", bound=Callable[..., Any])

FORMATS = ("table", "json", "jsonl", "csv")
TABLE_COLUMNS = {
    "users": ("user_id", "email", "first_name", "last_name", "created_at"),
    "sessions": ("session_id", "user_id", "created_at", "updated_at", "expire_time"),
}

_SHOWN_CHARACTERS = 60  # of a cell of a table on a terminal


def output_option(function: Function) -> Function:
    """Adds the option -o to a command."""
    return click.option(
        "-o",
        "--output",
        "output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="Format: table for people; json: one JSON document; jsonl: one JSON object per line; csv: with a header, "
        "metadata as JSON.",
    )(function)


class Printer(ABC):
    """Prints records in pages, so that a list of any length needs little memory.

    Args:
        kind: "users" or "sessions".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @abstractmethod
    def records(self, records: Iterable[User | Session]) -> None:
        """Prints some records."""

    def end(self, **further: Any) -> None:  # noqa: B027 - most formats write nothing here
        """Prints what follows the last record, such as next_cursor."""


class JsonLines(Printer):
    """One JSON object per line."""

    def records(self, records: Iterable[User | Session]) -> None:
        """Prints some records."""
        streams.write("".join(f"{record.to_json()}\n" for record in records))


class Json(Printer):
    """One JSON document: an object with a list of the records, and further fields."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._before = f'{{"{kind}": ['

    def records(self, records: Iterable[User | Session]) -> None:
        """Prints some records."""
        for record in records:
            streams.write(f"{self._before}\n  {record.to_json()}")
            self._before = ","

    def end(self, **further: Any) -> None:
        """Prints the end of the list and the further fields."""
        is_empty = self._before != ","
        rest = "".join(f', "{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in further.items())
        streams.write(f"{self._before if is_empty else ''}{'' if is_empty else chr(10)}]{rest}}}\n")


class Csv(Printer):
    """Comma-separated values (RFC 4180) with a header line."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._has_header = False

    def records(self, records: Iterable[User | Session]) -> None:
        """Prints some records."""
        rows = [record.to_dict(mode="json") for record in records]
        text = io.StringIO()
        writer = csv.writer(text)
        for row in rows:
            if not self._has_header:
                writer.writerow(row)
                self._has_header = True
            row["metadata"] = json.dumps(row["metadata"], ensure_ascii=False)
            writer.writerow(row.values())
        streams.write(text.getvalue())


class Table(Printer):
    """Aligned columns. The first page determines their widths, so that a list of any length can be printed."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._columns = TABLE_COLUMNS[kind]
        self._widths: list[int] = []

    def records(self, records: Iterable[User | Session]) -> None:
        """Prints some records."""
        rows = [[_cell(record, column) for column in self._columns] for record in records]
        if not self._widths and rows:
            header = [column.upper() for column in self._columns]
            self._widths = [max(map(_width, column)) for column in zip(header, *rows, strict=True)]
            print_bold(self._line(header))
        streams.write("".join(f"{self._line(row)}\n" for row in rows))

    def _line(self, cells: Sequence[str]) -> str:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(cells, self._widths, strict=True))
        return "  ".join(padded).rstrip()


PRINTERS: dict[str, Callable[[str], Printer]] = {"table": Table, "json": Json, "jsonl": JsonLines, "csv": Csv}


def print_record(record: User | Session, kind: str, output: str) -> None:
    """Prints one record; as a table, one line for each field."""
    if output == "table":
        fields = record.to_dict(mode="json")
        width = max(map(len, fields))
        for name, value in fields.items():
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else _text(value)
            streams.write(f"{name:<{width}}  {_printable(text)}".rstrip() + "\n")
    elif output == "json":
        streams.write(f"{json.dumps(record.to_dict(mode='json'), ensure_ascii=False, indent=2)}\n")
    else:
        PRINTERS[output](kind).records([record])


def print_bold(line: str) -> None:
    """Prints a header; bold if the terminal supports it."""
    if streams.colours(sys.stdout):
        streams.write_styled(click.style(line, bold=True))
    else:
        streams.write(f"{line}\n")


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _cell(record: User | Session, column: str) -> str:
    value = getattr(record, column)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = _printable(_text(value))
    if sys.stdout.isatty():
        limit = max(_SHOWN_CHARACTERS, shutil.get_terminal_size().columns // 2)
        return text if len(text) <= limit else f"{text[: limit - 1]}…"
    return text


def _printable(text: str) -> str:
    """Returns the text with escapes for characters that would change the lines of a table."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _width(text: str) -> int:
    """Returns the number of columns that a terminal needs for a text."""
    if text.isascii():
        return len(text)
    return sum(_columns_of(character) for character in text)


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
