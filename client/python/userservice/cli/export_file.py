"""The file of an export: FILE.part and FILE.cursor until the export is complete, then FILE.

FILE.cursor names the position up to which FILE.part is complete. It is replaced in one step after FILE.part is flushed
to disk, so an export can be continued after a kill and after a power cut.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

from userservice.cli.exit_codes import USAGE, CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS_BETWEEN_CHECKPOINTS = 1.0
_VERSION = 1
_BLOCK = 1 << 20
_PRIVATE = 0o600  # exported users are personal data


class Position(NamedTuple):
    """How far an export has come."""

    format: str
    """The format of the file."""

    sessions: bool
    """Whether the file contains sessions."""

    filter: str = ""
    """The SHA-256 of the filter, which may contain personal data; empty: the file contains all users."""

    cursor: int = 0
    """The id of the last user in FILE.part."""

    size: int = 0
    """The number of bytes of FILE.part that belong to the users up to the cursor."""

    users: int = 0
    """The number of these users."""


def digest_of(user_filter: str | None) -> str:
    """Returns the digest of a filter, which a position contains; empty without a filter."""
    return hashlib.sha256(user_filter.encode()).hexdigest() if user_filter else ""


def check_options(path: Path, begun: Position, wanted: Position) -> None:
    """Rejects options that differ from those of the interrupted export at a path."""
    if begun.filter != wanted.filter:
        raise CommandError(f"{path} was written with another --filter; use the same one to continue it", USAGE)
    if begun[:2] != wanted[:2]:
        kind = f"{begun.format} with sessions" if begun.sessions else f"{begun.format} without sessions"
        raise CommandError(f"{path} is {kind}; use the same options to continue it", USAGE)


class ExportFile:
    """Writes an export that can be interrupted and continued.

    Args:
        path: The path of the complete file.
        position: The format of the export.
        resume: Continue an interrupted export, if there is one.
        overwrite: Replace an existing file, and discard an interrupted export.

    Raises:
        CommandError: If the file exists, another export writes it, it cannot be written, or it cannot be continued.
    """

    def __init__(self, path: Path, position: Position, *, resume: bool, overwrite: bool) -> None:
        self.path = path
        self._state = (position, hashlib.sha256())
        self.part = path.with_name(f"{path.name}.part")
        self._cursor_file = path.with_name(f"{path.name}.cursor")
        self._next_checkpoint = time.monotonic() + _SECONDS_BETWEEN_CHECKPOINTS
        if path.exists() and not overwrite and not (resume and self.part.exists()):
            raise CommandError(f"{path} already exists; use --overwrite to replace it", USAGE)
        if self.part.exists() and not resume and not overwrite:
            raise CommandError(
                f"{self.part} is from an interrupted export; use --resume to continue it, "
                "or --overwrite to start again",
                USAGE,
            )
        with explained(self.part):
            self._file: IO[bytes] = os.fdopen(
                os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE), "r+b"
            )
        try:
            self._lock()
            with explained(self.part):
                self._start(is_continued=resume)
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CommandError(f"another export is writing {self.part}", USAGE) from None
        with explained(self.part):
            is_current = self.part.exists() and os.path.samestat(self.part.stat(), os.fstat(self._file.fileno()))
        if not is_current:
            raise CommandError(f"another export has just completed {self.path}", USAGE)

    def _start(self, *, is_continued: bool) -> None:
        last = self._last_position() if is_continued else None
        if last is not None:
            self._continue(*last)
        else:
            with suppress(FileNotFoundError):
                self._cursor_file.unlink()
        self._file.truncate(self.position.size)
        self._file.seek(self.position.size)

    def _last_position(self) -> tuple[Position, str] | None:
        """Returns the position in the cursor file with its digest; None if there is no cursor file."""
        try:
            content: dict[str, Any] = json.loads(self._cursor_file.read_text(encoding="utf-8"))
            last = Position(**{name: content[name] for name in Position._fields if name != "filter" or name in content})
            is_valid = content["version"] == _VERSION and all(
                type(value) is type(default) for value, default in zip(last, Position("", sessions=False), strict=True)
            )
            digest = str(content["sha256"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            is_valid = False
        if not is_valid:
            raise CommandError(
                f"{self._cursor_file} is not a cursor of this version; use --overwrite to start again", USAGE
            )
        return last, digest

    def _continue(self, last: Position, digest: str) -> None:
        """Checks that a position belongs to the part file, and continues from this position."""
        check_options(self.part, last, self.position)
        found = hashlib.sha256()
        left = last.size
        while left and (block := self._file.read(min(_BLOCK, left))):
            found.update(block)
            left -= len(block)
        if left or found.hexdigest() != digest:
            raise CommandError(
                f"{self.part} was changed since the export was interrupted; use --overwrite to start again", USAGE
            )
        self._state = (last, found)

    @property
    def position(self) -> Position:
        """How far the export has come."""
        return self._state[0]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is written yet."""
        return not self.position.size

    def write(self, data: bytes, *, users: int = 0, cursor: int | None = None) -> None:
        """Adds bytes to the file.

        Args:
            data: The bytes.
            users: The number of users in them.
            cursor: The id of the last user in them; None or 0: the export cannot be continued after these bytes.

        Raises:
            CommandError: If the file cannot be written, for example because the disk is full.
        """
        position, found = self._state
        with explained(self.part):
            self._file.write(data)
        found = found.copy()
        found.update(data)
        # In one assignment, because Ctrl-C may interrupt this function at any place.
        self._state = (
            position._replace(
                cursor=cursor or position.cursor, size=position.size + len(data), users=position.users + users
            ),
            found,
        )
        if cursor and time.monotonic() >= self._next_checkpoint:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Records the position, so that the export can be continued from it.

        Raises:
            CommandError: If the disk is full.
        """
        position, found = self._state
        with explained(self.part):
            self._file.flush()
            os.fsync(self._file.fileno())
            temporary = self._cursor_file.with_name(f"{self._cursor_file.name}.new")
            with temporary.open("w", encoding="utf-8") as file:
                json.dump({"version": _VERSION, **position._asdict(), "sha256": found.hexdigest()}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._cursor_file)
        self._next_checkpoint = time.monotonic() + _SECONDS_BETWEEN_CHECKPOINTS

    def discard(self) -> None:
        """Deletes the part file and the cursor file."""
        with explained(self.part):
            self.part.unlink(missing_ok=True)
            self._cursor_file.unlink(missing_ok=True)

    def complete(self, convert: Callable[[IO[bytes], IO[bytes]], None] | None = None) -> str:
        """Renames the part file to the name of the complete file.

        Args:
            convert: Writes the content of the part file in another format; None: the format does not change.

        Returns:
            SHA-256 of the complete file.
        """
        with explained(self.part):
            self._file.flush()
            os.fsync(self._file.fileno())
            digest = self._state[1].hexdigest()
            if convert is None:
                self.part.replace(self.path)
            else:
                digest = self._convert(convert)
                self.part.unlink()
            with suppress(FileNotFoundError):
                self._cursor_file.unlink()
            flush_folder(self.path)
        return digest

    def _convert(self, convert: Callable[[IO[bytes], IO[bytes]], None]) -> str:
        temporary = self.path.with_name(f"{self.path.name}.new")
        try:
            with os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, _PRIVATE), "w+b") as target:
                self._file.seek(0)
                convert(self._file, target)
                target.flush()
                os.fsync(target.fileno())
                target.seek(0)
                digest = hashlib.file_digest(target, "sha256").hexdigest()
            temporary.replace(self.path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the disk may be full; the position in the cursor file is still valid
            self._file.close()


def flush_folder(path: Path) -> None:
    """Flushes the names in the folder of a file to disk."""
    descriptor = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the errors of a file into errors of the command."""
    try:
        yield
    except OSError as error:
        hint = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "; free some space and continue with --resume"
        raise CommandError(f"cannot write {path}: {error.strerror}{hint}") from None
