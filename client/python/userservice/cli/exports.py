"""``userservice users export``: writes all users to a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import click

from userservice.cli import streams
from userservice.cli.connection import connection_options, users_manager
from userservice.cli.exit_codes import USAGE, CommandError
from userservice.cli.export_file import ExportFile, Position, digest_of
from userservice.cli.fields import filter_option
from userservice.cli.help import Command
from userservice.cli.parallel_export import PartFiles, discard_parts, is_begun, load_plan, parts_folder, save_plan
from userservice.cli.progress import Progress
from userservice.cli.records import (
    FORMATS,
    SUFFIXES,
    Encode,
    Sessions,
    csv_header,
    encode_csv,
    encode_json_lines,
)

if TYPE_CHECKING:
    from userservice import Session, SyncUserManager, User, UserPage, UserScanPart

STANDARD_OUTPUT = "-"
_CHUNK_SIZE = 10_000
_CONCURRENT_CALLS = 16
_MOST_PARALLEL = 64
_LEAST_PARTS = 16


@click.command(
    "export",
    cls=Command,
    examples=(
        ("userservice users export users.jsonl", "Write all users to a file of JSON lines:"),
        ("userservice users export users.jsonl --resume", "Continue after an interruption:"),
        ("userservice users export users.jsonl --parallel 4", "Read four parts of the users side by side:"),
        ("userservice users export users.parquet --sessions", "Write users with their sessions as Parquet:"),
        ("userservice users export pro.csv --filter 'metadata.plan = \"pro\"'", "Write the users that match:"),
        ("userservice users export - -o csv | gzip > users.csv.gz", "Write to standard output:"),
    ),
)
@click.argument("file", metavar="FILE")
@click.option(
    "-o",
    "--output",
    "output",
    type=click.Choice(FORMATS),
    help="Format: jsonl: one JSON object per line; csv: with a header, metadata as JSON; parquet: needs the extra "
    "`parquet`. Default: by the suffix of FILE (.jsonl, .ndjson, .csv, .parquet), else jsonl.",
)
@click.option(
    "--sessions", "with_sessions", is_flag=True, help="Also write the sessions of users, with one more call per user."
)
@click.option(
    "--parallel",
    type=click.IntRange(1, _MOST_PARALLEL),
    help="Number of parts to read side by side, which is faster if the store has several partitions.",
)
@filter_option
@click.option("--resume", is_flag=True, help="Continue an interrupted export; start one if there is none.")
@click.option("--overwrite", is_flag=True, help="Replace FILE, and discard an interrupted export.")
@connection_options
def export_users(
    *,
    file: str,
    output: str | None,
    with_sessions: bool,
    parallel: int | None,
    user_filter: str | None,
    resume: bool,
    overwrite: bool,
) -> None:
    """Write all users to FILE in order of creation; - is standard output.

    Each user that exists from the start to the end of the export is in FILE exactly once. During the export, FILE.part
    contains the users and FILE.cursor contains the position; at the end, FILE.part is renamed to FILE, and the command
    prints the number of users and the SHA-256 of FILE. After an interruption, even by kill -9 or a power cut, --resume
    continues the export; the result is the same as without the interruption. Only the user who runs the command can
    read FILE.

    With --parallel, the users are in the order of the partitions of the store, and in order of creation within each
    partition; the order depends neither on the number of parts nor on interruptions. Until the end of the export, the
    folder FILE.parts contains the parts, so the disk needs space for the users twice. Only an export that began with
    --parallel can be continued with it.

    A Parquet file is written from FILE.part at the end, so the disk needs space for both files. The command users
    import reads all formats.
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other", click.get_current_context())
    name = output or SUFFIXES.get(Path(file).suffix.lower(), "jsonl")
    if file == STANDARD_OUTPUT:
        has_file_options = resume or overwrite or parallel is not None
        _export_to_standard_output(name, user_filter, with_sessions=with_sessions, has_file_options=has_file_options)
        return
    kind = _format(name, with_sessions=with_sessions)
    position = Position(name, with_sessions, digest_of(user_filter))
    with ExportFile(Path(file), position, resume=resume, overwrite=overwrite) as target:
        _check_continued(target, resume=resume, parallel=parallel is not None)
        if parallel is None:
            digest = _export(target, kind, user_filter)
        else:
            digest = _export_parts(target, kind, user_filter, parallel)
    streams.write(f"{file}: {target.position.users} users, sha256 {digest}\n")


def _check_continued(target: ExportFile, *, resume: bool, parallel: bool) -> None:
    """Rejects the options of an export that began with other options; discards the parts of an earlier export."""
    if not resume:
        discard_parts(target.path)
    elif is_begun(target.path) and not parallel:
        raise CommandError(f"{parts_folder(target.path)} is from an export with --parallel; add --parallel", USAGE)
    elif not is_begun(target.path) and parallel and not target.is_empty:
        raise CommandError(f"{target.part} is from an export without --parallel; leave it out", USAGE)


class _Format(NamedTuple):
    """How a format is written."""

    header: Callable[[], bytes]
    encode: Encode
    convert: Callable[[IO[bytes], IO[bytes]], None] | None = None


def _format(name: str, *, with_sessions: bool) -> _Format:
    if name == "csv":
        return _Format(lambda: csv_header(with_sessions=with_sessions), encode_csv)
    if name == "jsonl":
        return _Format(lambda: b"", encode_json_lines)
    from userservice.cli.parquet import ArrowEncoder, convert  # noqa: PLC0415 - needs pyarrow

    encoder = ArrowEncoder(with_sessions=with_sessions)
    return _Format(encoder.header, encoder.encode, convert)


def _export(target: ExportFile, kind: _Format, user_filter: str | None) -> str:
    """Writes the users that are not in the file yet; returns the SHA-256 of the complete file."""
    position = target.position
    if target.is_empty:
        target.write(kind.header())
    try:
        with users_manager() as manager, Progress("users", position.users) as progress:
            for chunk, users, sessions in _chunks(
                manager, position.cursor, user_filter, with_sessions=position.sessions
            ):
                target.write(kind.encode(users, sessions), users=len(users), cursor=chunk[-1].id)
                progress.advance(len(chunk), chunk.total_size)
    except BaseException as error:
        _keep(target, error)
        raise
    return target.complete(kind.convert)


def _export_parts(target: ExportFile, kind: _Format, user_filter: str | None, parallel: int) -> str:
    """Writes what is missing of the parts, and joins them; returns the SHA-256 of the complete file."""
    position, path = target.position, target.path
    with users_manager() as manager:
        if not is_begun(path):
            try:
                save_plan(path, position, manager.plan_user_scan(max(parallel, _LEAST_PARTS)))
            except BaseException:
                target.discard()
                raise
        with PartFiles(path, position, load_plan(path, position)) as files:
            try:
                _read_parts(manager, files, kind, user_filter, parallel, with_sessions=position.sessions)
                files.checkpoint()
                target.write(kind.header(), users=files.users)
                for block in files.content():
                    target.write(block)
            except BaseException as error:
                _keep_parts(target, files, error)
                raise
    digest = target.complete(kind.convert)
    discard_parts(path)
    return digest


def _read_parts(
    manager: SyncUserManager,
    files: PartFiles,
    kind: _Format,
    user_filter: str | None,
    parallel: int,
    *,
    with_sessions: bool,
) -> None:
    total = 0 if user_filter else manager.list(1, view="ID").total_size
    with Progress("users", files.users) as progress:
        for chunk, users, sessions in _chunks(
            manager, 0, user_filter, with_sessions=with_sessions, parts=files.unread, parallel=parallel
        ):
            files.write(chunk.part, kind.encode(users, sessions), users=len(users), cursor=chunk[-1].id)
            progress.advance(len(chunk), total)


def _keep_parts(target: ExportFile, files: PartFiles, error: BaseException) -> None:
    """Records the positions of the parts of an export that ends early, and prints how to continue."""
    if isinstance(error, CommandError) and files.users:
        return  # the disk is full
    if not files.users:
        discard_parts(target.path)
        target.discard()
        return
    files.checkpoint()
    if getattr(error, "reason", "") != "STORE_CHANGED":  # otherwise the plan is invalid
        streams.note(f"{files.users} users are in {parts_folder(target.path)}; continue with --resume")


def _keep(target: ExportFile, error: BaseException) -> None:
    """Records the position of an export that ends early, and prints how to continue."""
    if isinstance(error, CommandError) and target.position.cursor:
        return  # the disk is full
    if not target.position.cursor:
        target.discard()
        return
    target.checkpoint()
    if getattr(error, "reason", "") == "STORE_CHANGED":  # the store was emptied or replaced, so the cursor is invalid
        return
    streams.note(f"{target.position.users} users are in {target.part}; continue with --resume")


@contextmanager
def _sessions_reader(
    manager: SyncUserManager,
) -> Iterator[Callable[[Sequence[User]], tuple[list[User], list[Sequence[Session]]]]]:
    """Returns a function that reads the sessions of users with concurrent calls, and leaves out deleted users."""
    from userservice import UserNotFoundError  # noqa: PLC0415

    def sessions_of(user: User) -> Sequence[Session] | None:
        try:
            return manager.get_sessions(user.user_id)
        except UserNotFoundError:  # deleted since it was read
            return None

    with ThreadPoolExecutor(_CONCURRENT_CALLS) as threads:

        def read(users: Sequence[User]) -> tuple[list[User], list[Sequence[Session]]]:
            found = list(zip(users, threads.map(sessions_of, users), strict=True))
            present = [user for user, sessions in found if sessions is not None]
            return present, [sessions for _, sessions in found if sessions is not None]

        yield read


def _chunks(
    manager: SyncUserManager,
    cursor: int,
    user_filter: str | None,
    *,
    with_sessions: bool,
    parts: Sequence[UserScanPart] | None = None,
    parallel: int = 1,
) -> Iterator[tuple[UserPage, Sequence[User], Sessions]]:
    """Yields each chunk, those of its users that still exist, and the sessions of these users."""
    chunks = manager.list_chunked(
        chunk_size=_CHUNK_SIZE, cursor=cursor, filter=user_filter, parts=parts, parallel=parallel
    )
    if with_sessions:
        with _sessions_reader(manager) as read:
            for chunk in chunks:
                yield chunk, *read(chunk)
    else:
        for chunk in chunks:
            yield chunk, chunk, None


def _export_to_standard_output(
    name: str, user_filter: str | None, *, with_sessions: bool, has_file_options: bool
) -> None:
    if name == "parquet" or has_file_options:
        what = "--parallel, --resume and --overwrite need" if has_file_options else "Parquet needs"
        raise click.UsageError(f"{what} a file", click.get_current_context())
    kind = _format(name, with_sessions=with_sessions)
    count = 0
    with users_manager() as manager, Progress("users") as progress:
        _write_out(kind.header())
        for chunk, users, sessions in _chunks(manager, 0, user_filter, with_sessions=with_sessions):
            _write_out(kind.encode(users, sessions))
            count += len(users)
            progress.advance(len(chunk), chunk.total_size)
    streams.note_on_terminal(f"{count} users")


def _write_out(data: bytes) -> None:
    try:
        if sys.stdout.isatty():
            streams.write(data.decode())
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
    except OSError as error:
        raise streams.OutputError(error) from None
