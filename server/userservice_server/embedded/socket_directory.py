"""Creates temporary directories for the store's Unix socket, for data directories with a path that is too long."""

import fcntl
import os
import re
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

SOCKET_NAME = "store.sock"
_PREFIX = "userservice-"
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")  # the names that tempfile.mkdtemp creates


def make_socket_directory() -> tuple[Path, int]:
    """Creates a private directory; returns its path and the descriptor of a lock that marks the directory as in use."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        if (lock := _locked(path)) is not None:
            return path, lock
        # Another service removed the directory as a leftover before it was locked.


def remove_leftover_directories() -> None:
    """Removes the directories that killed services left behind: those of this user that no process has locked."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _NAME.fullmatch(path.name):
            with suppress(OSError):  # belongs to another user, or was removed by another service
                _remove_if_unused(path)


def _remove_if_unused(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return
    if (lock := _locked(path)) is None:
        return
    try:
        file = path / SOCKET_NAME
        if [*path.iterdir()] == [file] and stat.S_ISSOCK(file.lstat().st_mode) and not _is_listening(file):
            file.unlink()
        path.rmdir()  # fails if the directory contains anything else
    finally:
        os.close(lock)


def _locked(path: Path) -> int | None:
    """Locks the directory and returns the descriptor of the lock; None if it is locked already or does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_ours = False
    else:
        is_ours = path.exists()  # False if the directory was removed before it was locked
    if is_ours:
        return descriptor
    os.close(descriptor)
    return None


def _is_listening(path: Path) -> bool:
    """Returns whether a server listens on the socket. Earlier versions of the service lock no directories."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True
