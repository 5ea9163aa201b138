"""The files of an export with --parallel: the folder FILE.parts, with one file for each part of a plan.

The plan is made once and kept in FILE.parts/plan.json, so every run of an export reads the same parts. Each part is
written like an export of its own (see `ExportFile`) and is continued by itself. At the end, the parts are joined in the
order of the plan. The result therefore depends neither on the number of streams nor on interruptions.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from userservice.cli.exit_codes import USAGE, CommandError
from userservice.cli.export_file import ExportFile, Position, check_options, explained, flush_folder

if TYPE_CHECKING:
    from userservice import UserScanPart

_VERSION = 1
_BLOCK = 1 << 20
_PRIVATE = 0o700  # exported users are personal data


def parts_folder(path: Path) -> Path:
    """Returns the folder of the parts of an export."""
    return path.with_name(f"{path.name}.parts")


def is_begun(path: Path) -> bool:
    """Returns whether the export with --parallel to this path was interrupted."""
    return _plan_file(path).exists()


def _plan_file(path: Path) -> Path:
    return parts_folder(path) / "plan.json"


class PartFiles:
    """Writes the parts of an export; continues those that an earlier run began.

    Args:
        path: The path of the complete file.
        position: The format of the export.
        parts: The parts of the plan, in the order of the complete file.
    """

    def __init__(self, path: Path, position: Position, parts: Sequence[UserScanPart]) -> None:
        self._files: dict[UserScanPart, ExportFile] = {}
        try:
            for number, part in enumerate(parts):
                file = parts_folder(path) / f"{number:02}"
                self._files[part] = ExportFile(file, position, resume=True, overwrite=False)
        except BaseException:
            self.__exit__()
            raise
        self._by_end = {(part.partition, part.end_cursor): file for part, file in self._files.items()}

    @property
    def unread(self) -> list[UserScanPart]:
        """What remains of the parts."""
        return [part._replace(cursor=max(part.cursor, file.position.cursor)) for part, file in self._files.items()]

    @property
    def users(self) -> int:
        """The number of users in the files."""
        return sum(file.position.users for file in self._files.values())

    def write(self, part: UserScanPart | None, data: bytes, *, users: int, cursor: int) -> None:
        """Adds bytes to the file of a part; see `ExportFile.write`."""
        if part is None:
            raise TypeError("the chunk belongs to no part")
        self._by_end[part.partition, part.end_cursor].write(data, users=users, cursor=cursor)

    def checkpoint(self) -> None:
        """Records how far each part has come."""
        for file in self._files.values():
            if file.position.cursor:
                file.checkpoint()

    def content(self) -> Iterator[bytes]:
        """Yields the content of all parts in the order of the plan; everything must be recorded by `checkpoint`."""
        for file in self._files.values():
            with explained(file.part), file.part.open("rb") as opened:
                while block := opened.read(_BLOCK):
                    yield block

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.__exit__()


def save_plan(path: Path, position: Position, parts: Iterable[UserScanPart]) -> None:
    """Writes the plan of an export into a new folder, in one step."""
    folder, file = parts_folder(path), _plan_file(path)
    with explained(folder):
        discard_parts(path)
        folder.mkdir(mode=_PRIVATE)
        temporary = file.with_name("plan.new")
        content = {
            "version": _VERSION,
            "format": position.format,
            "sessions": position.sessions,
            "filter": position.filter,
            "parts": list(parts),
        }
        with temporary.open("w", encoding="utf-8") as opened:
            json.dump(content, opened)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
        flush_folder(file)


def load_plan(path: Path, position: Position) -> list[UserScanPart]:
    """Reads the plan of an interrupted export.

    Raises:
        CommandError: If the plan is of another version, or the export has other options.
    """
    from userservice import UserScanPart  # noqa: PLC0415

    file = _plan_file(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        parts = [UserScanPart(*map(int, part)) for part in content["parts"]]
        begun = Position(content["format"], content["sessions"], content.get("filter", ""))
        is_valid = content["version"] == _VERSION
    except (ValueError, TypeError, KeyError):
        is_valid = False
    if not is_valid:
        raise CommandError(f"{file} is not a plan of this version; use --overwrite to start again", USAGE)
    check_options(parts_folder(path), begun, position)
    return parts


def discard_parts(path: Path) -> None:
    """Deletes the parts of an export."""
    with explained(parts_folder(path)):
        if parts_folder(path).exists():
            shutil.rmtree(parts_folder(path))
