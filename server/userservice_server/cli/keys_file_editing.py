"""Edits a keys file: keeps comments and order, and replaces the file in one step, never half-written."""

import errno
import fcntl
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from userservice_server.config import ConfigError
from userservice_server.transport.credentials.keys_file import parse_keys_file, read_keys_file

_NEW_MODE = 0o600


@dataclass
class Text:
    """The text of a keys file; written to the file at the end of the block."""

    text: str


@contextmanager
def changing(path: Path, *, may_be_new: bool = False) -> Iterator[Text]:
    """Locks the folder of a keys file, and replaces the file at the end of the block if the new text is valid.

    Raises:
        ConfigError: the file is not valid, before or after the change, or cannot be read or written.
    """
    with suppress(RuntimeError):  # a loop of links, with Python 3.12 and older; newer versions return the path
        path = path.resolve()  # replaces the target of a symbolic link, not the link
    if path.is_symlink():
        raise ConfigError(f"--keys-file {path} cannot be read: {os.strerror(errno.ELOOP)}")
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"--keys-file {path} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # concurrent commands must not lose an entry
        content = b"" if may_be_new and not path.exists() else read_keys_file(path)
        parse_keys_file(content, path)
        file = Text(content.decode())
        yield file
        changed = _encoded(file.text)
        parse_keys_file(changed, path)
        _replace(path, changed)
    finally:
        os.close(directory)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ConfigError("--name and --scopes must be UTF-8") from None


def _replace(path: Path, content: bytes) -> None:
    try:
        before = path.stat() if path.exists() else None
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode) if before else _NEW_MODE)
                if before and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                file.flush()
                os.fsync(descriptor)
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise ConfigError(f"--keys-file {path} cannot be written: {error.strerror}") from None


def add_entry(text: str, key_id: str, fields: Mapping[str, object]) -> str:
    """Returns the text with a key added."""
    lines = [f"[keys.{key_id}]", *(f"{name} = {_toml(value)}" for name, value in fields.items())]
    separator = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return f"{text}{separator}" + "\n".join(lines) + "\n"


def revoke_entry(text: str, key_id: str, now: datetime) -> str:
    """Returns the text with a key revoked.

    Raises:
        ConfigError: the file has no such key, the key is already revoked, or the file has an unusual form.
    """
    content = parse_keys_file(text.encode(), Path())
    if key_id not in content.keys:
        raise ConfigError("the keys file has no key with this id; userservice keys list shows the ids")
    if content.keys[key_id].is_revoked:
        raise ConfigError(f"the key {key_id} is already revoked")
    header = re.compile(rf"^\[keys\.(?:{key_id}|\"{key_id}\")\][^\n]*$", re.MULTILINE)
    changed, count = header.subn(lambda found: f"{found[0]}\nrevoked_at = {_toml(now)}", text)
    if count != 1:
        raise ConfigError(
            f"the keys file must have exactly one line that starts with [keys.{key_id}]; add revoked_at by hand"
        )
    return changed


def _toml(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and lists are written as in JSON
