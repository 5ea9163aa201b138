"""Creates files and directories that only the user of the service can open."""

import logging
import os
import stat
from pathlib import Path

from userservice_server.config import ConfigError

_DIRECTORY_MODE, _FILE_MODE = 0o700, 0o600
# Non-blocking, because opening a named pipe would otherwise wait for its other end.
_NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

logger = logging.getLogger("userservice.store")


def make_private_directory(path: Path) -> None:
    """Creates a directory with mode 0700, and missing parents; restricts an existing directory to its owner.

    Raises:
        ConfigError: Another user owns the directory.
        OSError: The directory cannot be created or opened.
    """
    path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    # The path may be a symbolic link, so that the data directory can be on another disk. Paths inside it may not.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _narrow(descriptor, path)
    finally:
        os.close(descriptor)


def open_private_file(path: Path, flags: int) -> int:
    """Opens a file, or creates it with mode 0600 if ``flags`` allow that; restricts an existing file to its owner.

    Raises:
        ConfigError: The path is a symbolic link, is not a regular file, or belongs to another user.
        OSError: The file cannot be opened.
    """
    _refuse_link(path)
    descriptor = os.open(path, flags | _NO_LINK, _FILE_MODE)
    try:
        _refuse_special_file(descriptor, path)
        _narrow(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def narrow_directory(path: Path) -> None:
    """Restricts a directory and the files in it to their owner, if the directory exists.

    Raises:
        ConfigError: The directory or a file is a symbolic link or belongs to another user, or a file is not regular.
        OSError: The directory or a file cannot be opened.
    """
    _refuse_link(path)
    if not path.exists():
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_LINK)
    try:
        _narrow(descriptor, path)
    finally:
        os.close(descriptor)
    for file in path.iterdir():
        os.close(open_private_file(file, os.O_RDONLY))


def _refuse_link(path: Path) -> None:
    """Raises an error with a clear text. O_NOFOLLOW also prevents following the link, with a less clear error."""
    if path.is_symlink():
        raise ConfigError(f"{path} must not be a symbolic link")


def _refuse_special_file(descriptor: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise ConfigError(f"{path} must be a regular file")


def _narrow(descriptor: int, path: Path) -> None:
    """Removes the permissions of the group and of other users."""
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{path} must be owned by the user of the service, but user {status.st_uid} owns it")
    mode = stat.S_IMODE(status.st_mode)
    wanted = mode & (_DIRECTORY_MODE if stat.S_ISDIR(status.st_mode) else _FILE_MODE)
    if mode != wanted:
        os.fchmod(descriptor, wanted)
        logger.warning(
            "permissions restricted", extra={"path": str(path), "from": f"{mode:04o}", "to": f"{wanted:04o}"}
        )
