"""Prepares the path of a Unix socket, because grpc would remove the socket of a running service without an error."""

import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from userservice_server.config import Listen
from userservice_server.process.listen import cannot_listen

_CONNECT_SECONDS = 1.0
_LOCK_SECONDS = 2.0
_LOCK_PAUSE = 0.02


@contextmanager
def claimed_path(listen: Listen) -> Iterator[None]:
    """Removes the socket that a killed service left behind; the ``with`` block then binds the new socket.

    The socket has the mode of the settings from its creation. A lock on the directory ensures that two services that
    start at the same time do not remove each other's socket.

    Raises:
        ConfigError: A process listens on the socket, the path is another kind of file, or the directory cannot be used.
    """
    if listen.socket is None:
        raise AssertionError("the service listens on a port")
    try:
        with _locked(listen.socket.parent):
            _remove_leftover(listen.socket)
            previous = os.umask(0o777 & ~int(listen.socket_mode, base=8))
            try:
                yield
            finally:
                os.umask(previous)
    except _UnusablePathError as error:
        raise cannot_listen(listen, str(error)) from None
    except OSError as error:
        raise cannot_listen(listen, error.strerror or "the path cannot be used") from None


class _UnusablePathError(Exception):
    """The service cannot create a socket at the path; the text is the reason."""


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Holds a lock on a directory. Closing the descriptor releases the lock, also if the process is killed."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + _LOCK_SECONDS
        while not _has_locked(descriptor):
            if time.monotonic() > end:
                raise _UnusablePathError("another process has locked the directory")
            time.sleep(_LOCK_PAUSE)
        yield
    finally:
        os.close(descriptor)


def _has_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_leftover(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise _UnusablePathError("the path exists and is not a socket")
    if _is_answering(path):
        raise _UnusablePathError("another process listens on the socket")
    path.unlink(missing_ok=True)


def _is_answering(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except (TimeoutError, BlockingIOError):  # the queue of connections is full
            pass
    return True
