"""``userservice users import``: writes the users of a file, each exactly once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import NAMESPACE_OID, uuid4, uuid5

import click

from userservice.cli import streams
from userservice.cli.connection import connection_options, sessions_manager, users_manager
from userservice.cli.exit_codes import PARTIAL, SUCCESS, USAGE, CommandError
from userservice.cli.help import Command
from userservice.cli.import_files import Source, explained, open_source, write_failed
from userservice.cli.import_mapping import RowError, UserMapping, sessions_of
from userservice.cli.progress import Progress
from userservice.cli.records import FORMATS, SUFFIXES

if TYPE_CHECKING:
    from userservice import SyncSessionManager
    from userservice.imports import ImportRow, ImportStatus

STANDARD_INPUT = "-"
_SHOWN_ERRORS = 10
_BLOCK = 1 << 20
_CONCURRENT_CALLS = 16
_COUNTS = ("added", "merged", "replaced", "skipped", "failed")


@click.command(
    "import",
    cls=Command,
    examples=(
        ("userservice users import users.jsonl", "Add the users of a file of JSON lines:"),
        ("userservice users import users.csv --failed failed.csv", "Write the rows that failed to a file:"),
        ("userservice users import users.parquet --on-duplicate merge", "Merge rows into existing users:"),
        (
            "userservice users import auth0.jsonl --map first_name=given_name --unknown metadata",
            "Import a file of another program:",
        ),
    ),
)
@click.argument("file", metavar="FILE")
@click.option(
    "-f",
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    help="Format: jsonl: one JSON object per line; csv: with a header; parquet: needs the extra `parquet`. Default: by "
    "the suffix of FILE (.jsonl, .ndjson, .csv, .parquet), else jsonl.",
)
@click.option(
    "--on-duplicate",
    type=click.Choice(["fail", "skip", "merge", "replace"]),
    default="fail",
    show_default=True,
    help="What to do with a row whose user exists: fail: the row fails; skip: change nothing; merge: fields that are "
    "not empty replace the old values, and metadata is merged; replace: replace all fields.",
)
@click.option("--validate-only", is_flag=True, help="Check the rows, but write nothing.")
@click.option(
    "--restore",
    is_flag=True,
    help="Keep all fields, also id, uuid, times and etag. Needs the scope admin and a store without users.",
)
@click.option("--sessions", "with_sessions", is_flag=True, help="Also add the sessions in the column `sessions`.")
@click.option(
    "--map",
    "pairs",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Take a field from a column with another name, or from a path of keys such as name.first. FIELD is user_id, "
    "email, first_name, last_name, metadata or metadata.KEY. Can be repeated.",
)
@click.option(
    "--unknown",
    type=click.Choice(["fail", "ignore", "metadata"]),
    default="fail",
    show_default=True,
    help="What to do with columns that no field needs; metadata: add them to the metadata of the user.",
)
@click.option("--failed", metavar="FILE", help="Write the rows that failed, with their reasons, in the format of FILE.")
@click.option("--import-id", metavar="UUID", help="Id of the import. Default: derived from the content of FILE.")
@click.option("--new", "is_new", is_flag=True, help="Import FILE again, even if the same import is complete.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@connection_options
def import_users(*, file: str, kind: str | None, **options: Any) -> int:
    """Write the users of FILE; - is standard input.

    Each row is applied exactly once: after an interruption, the same command continues the import. The command derives
    the id of the import from the content of FILE and the options; the service keeps the state of an import for 7 days.
    An invalid row fails alone, and the exit code is then 1; --failed writes these rows to a file, which can be
    corrected and imported. The service keeps the reasons of the first 10 000 failed rows.

    The columns are user_id (required), email, first_name, last_name and metadata (a JSON object). The columns id,
    uuid, created_at, updated_at and etag of an export are ignored without --restore. In CSV files, empty values are
    absent values. Messages count rows from 1, without the header and empty lines.
    """
    if file == STANDARD_INPUT:
        with _spooled() as path:
            return _import(path, "standard input", kind or "jsonl", options)
    return _import(Path(file), file, kind or SUFFIXES.get(Path(file).suffix.lower(), "jsonl"), options)


@contextmanager
def _spooled() -> Iterator[Path]:
    """Copies standard input to a file, because an import reads its rows more than once."""
    try:
        with tempfile.NamedTemporaryFile(prefix="userservice-import-") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, _BLOCK)
            file.flush()
            yield Path(file.name)
    except OSError as error:
        raise CommandError(f"cannot copy standard input to a temporary file: {error.strerror}") from None


class _Digest(NamedTuple):
    """What identifies the content of a file."""

    sha256: str
    lines: int


def _digest(path: Path) -> _Digest:
    found, lines = hashlib.sha256(), 0
    with explained(path), path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
            lines += block.count(b"\n")
    return _Digest(found.hexdigest(), lines)


def _import(path: Path, name: str, kind: str, options: dict[str, Any]) -> int:
    """Imports a file and prints the result; returns the exit code."""
    failed = Path(options["failed"]) if options["failed"] else None
    if failed is not None and failed.exists() and failed.samefile(path):
        raise CommandError("--failed must not be the file that is imported", USAGE)
    source = open_source(path, kind)
    mapping = UserMapping(
        options["pairs"], unknown=options["unknown"], restore=options["restore"], is_text=kind == "csv"
    )
    mapping.check_columns(source.columns)
    digest = _digest(path)
    run = _Run(source, mapping, kind, digest, options)
    status = run.users()
    errors = run.errors(status)
    failed_sessions = run.sessions(set(errors)) if options["with_sessions"] else 0
    if failed is not None:
        _write_failed(failed, source, kind, errors)
    _print_result(name, status, errors, failed_sessions, as_json=options["as_json"])
    return PARTIAL if status.failed or failed_sessions else SUCCESS


class _Run:
    """One run of an import.

    Args:
        source: The rows.
        mapping: Finds the fields of users in the rows.
        kind: The format of the file.
        digest: The digest of the file.
        options: The options of the command.
    """

    def __init__(
        self, source: Source, mapping: UserMapping, kind: str, digest: _Digest, options: dict[str, Any]
    ) -> None:
        self._source, self._mapping, self._options = source, mapping, options
        self._total = digest.lines if kind != "parquet" else None
        meaning = json.dumps([digest.sha256, kind, options["pairs"], options["unknown"]])
        self._digest = hashlib.sha256(meaning.encode()).hexdigest()
        self._import_id = options["import_id"] or self._default_id()
        self._progress: Progress | None = None
        self._applied: int | None = None

    def _default_id(self) -> str:
        if self._options["is_new"]:
            return str(uuid4())
        meaning = [self._options[name] for name in ("on_duplicate", "validate_only", "restore")]
        return str(uuid5(NAMESPACE_OID, json.dumps(["userservice import", self._digest, *meaning])))

    def users(self) -> ImportStatus:
        """Sends the rows; returns the state at the end."""
        with users_manager() as manager, Progress("rows") as self._progress:
            try:
                status = manager.import_users(
                    self._rows(),
                    import_id=self._import_id,
                    on_duplicate=self._options["on_duplicate"].upper(),
                    validate_only=self._options["validate_only"],
                    restore=self._options["restore"],
                    digest=self._digest,
                    on_progress=self._advance,
                )
            except BaseException:
                if self._applied:
                    again = f" with --import-id {self._import_id}" if self._options["is_new"] else ""
                    streams.note(
                        f"at least {self._applied} rows are applied; the same command{again} continues the import"
                    )
                raise
        return status

    def _advance(self, status: ImportStatus) -> None:
        if self._applied is None and status.offset:
            streams.note(
                f"import {self._import_id}: an earlier run has applied {status.offset} rows, which are skipped; "
                "use --new to start a new import"
            )
        if self._progress is not None:
            self._progress.advance(status.offset - (self._applied or 0), self._total)
        self._applied = status.offset

    def _rows(self) -> Iterator[ImportRow]:
        from userservice.errors import InvalidArgumentError  # noqa: PLC0415 - imports grpc

        for row in self._source:
            try:
                yield self._mapping.user(row)
            except RowError as error:
                yield InvalidArgumentError(str(error))

    def errors(self, status: ImportStatus) -> dict[int, str]:
        """Returns the reasons of the rows that failed, by number of the row from 0."""
        reasons = {error.index: _reason(error.error) for error in status.row_errors}
        if reasons:
            # Only this command can report why it could not read a row; it sends an invalid row in its place.
            for number, row in enumerate(self._source):
                if number in reasons:
                    try:
                        self._mapping.user(row)
                    except RowError as error:
                        reasons[number] = str(error)
        return reasons

    def sessions(self, failed: set[int]) -> int:
        """Adds the sessions of the rows that did not fail; returns how many sessions failed."""
        if self._options["validate_only"]:
            return 0
        failures = 0
        with sessions_manager() as manager, ThreadPoolExecutor(_CONCURRENT_CALLS) as threads:
            for reasons in _in_batches(threads, _adder(manager), self._session_fields(failed)):
                for reason in filter(None, reasons):
                    failures += 1
                    if failures <= _SHOWN_ERRORS:
                        streams.print_error(reason)
        return failures

    def _session_fields(self, failed: set[int]) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(self._source):
            if number in failed or row.error:
                continue
            try:
                user_id = self._mapping.user(row).get("user_id")
                yield from ({"user_id": user_id, **session} for session in sessions_of(row))
            except RowError as error:
                yield {"row": number + 1, "error": str(error)}


def _adder(manager: SyncSessionManager) -> Callable[[dict[str, Any]], str]:
    """Returns a function that adds a session and returns why it failed, or nothing."""
    from userservice.errors import (  # noqa: PLC0415 - imports grpc
        InvalidArgumentError,
        SessionAlreadyExistsError,
        SessionLimitError,
        UserNotFoundError,
    )

    def add(fields: dict[str, Any]) -> str:
        if "error" in fields:
            return f"row {fields['row']}: {fields['error']}"
        try:
            manager.add(fields)
        except SessionAlreadyExistsError:  # added before the import was interrupted
            return ""
        except (InvalidArgumentError, SessionLimitError, UserNotFoundError) as error:
            return f"session {fields['session_id']!r} of user {fields['user_id']!r}: {_reason(error)}"
        return ""

    return add


def _in_batches(
    threads: ThreadPoolExecutor, add: Callable[[dict[str, Any]], str], items: Iterator[dict[str, Any]]
) -> Iterator[Iterator[str]]:
    """Calls a function with all items, a bounded number of them at once."""
    while batch := list(islice(items, 64 * _CONCURRENT_CALLS)):
        yield threads.map(add, batch)


def _reason(error: Any) -> str:
    violations = getattr(error, "violations", ())
    return "; ".join(f"{field}: {description}" for field, description in violations) or str(error.message)


def _write_failed(path: Path, source: Source, kind: str, errors: dict[int, str]) -> None:
    temporary = path.with_name(f"{path.name}.new")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))  # the rows are personal data
        write_failed(temporary, source, kind, errors)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise CommandError(f"cannot write {path}: {error.strerror}") from None


def _print_result(
    name: str, status: ImportStatus, errors: dict[int, str], failed_sessions: int, *, as_json: bool
) -> None:
    for number, reason in list(errors.items())[:_SHOWN_ERRORS]:
        streams.print_error(f"row {number + 1}: {reason}")
    if status.failed > _SHOWN_ERRORS:
        streams.note(f"and {status.failed - _SHOWN_ERRORS} more rows; --failed writes them to a file")
    counts = {count: getattr(status, count) for count in _COUNTS}
    if as_json:
        result = {"import_id": status.import_id, "rows": status.offset, **counts, "failed_sessions": failed_sessions}
        streams.write(f"{json.dumps(result)}\n")
    else:
        texts = ", ".join(f"{number} {what}" for what, number in counts.items())
        streams.write(f"{name}: {status.offset} rows, {texts} (import {status.import_id})\n")
