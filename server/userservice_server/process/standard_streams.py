"""Writes to the standard streams, also if they are closed, full, or pipes that nobody reads."""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from threading import Thread
from typing import Any

STDIN, STDOUT, STDERR = 0, 1, 2
_PATIENCE_MS = 1000  # wait for a full standard error before a line is dropped


class OutputError(Exception):
    """A write to standard output failed. Not an OSError, because click handles some OSErrors itself."""

    def __init__(self, cause: OSError) -> None:
        why = "it is closed" if cause.errno == errno.EBADF else cause.strerror
        super().__init__(f"cannot write to standard output: {why}")
        self.is_closed_pipe = isinstance(cause, BrokenPipeError)


def open_standard_streams() -> None:
    """Opens /dev/null for closed standard descriptors, and makes failed writes to standard output raise OutputError.

    Otherwise the next file or socket would get the number of a closed descriptor, and log lines would be written to it.
    A closed standard output is opened read-only, so that writes to it still fail.
    """
    for descriptor, mode in ((STDIN, os.O_RDONLY), (STDOUT, os.O_RDONLY), (STDERR, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)
            os.dup2(opened, descriptor)
            if opened == descriptor:
                os.set_inheritable(descriptor, True)  # noqa: FBT003 - its only parameter
            else:
                os.close(opened)
    # Python sets the stream of a closed descriptor to None.
    streams = vars(sys)
    if streams["stdin"] is None:
        sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115
    if streams["stderr"] is None:
        sys.stderr = open(STDERR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    encoding = getattr(sys.stdout, "encoding", "utf-8")
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_StandardOutput()), encoding=encoding, errors="backslashreplace", line_buffering=True
    )


class _StandardOutput(io.RawIOBase):
    """Raw standard output; a failed write raises OutputError."""

    def writable(self) -> bool:
        """Returns True, because the stream is for writing."""
        return True

    def fileno(self) -> int:
        """Returns the descriptor of standard output."""
        return STDOUT

    def isatty(self) -> bool:
        """Returns whether standard output is a terminal."""
        return os.isatty(STDOUT)

    def write(self, data: Any) -> int:
        """Writes a part of ``data`` and returns the number of bytes written.

        Raises:
            OutputError: The write failed.
        """
        try:
            return _written(STDOUT, data)
        except OSError as error:
            raise OutputError(error) from None


def write_all(descriptor: int, data: bytes) -> int:
    """Writes ``data``, also to a non-blocking descriptor; returns how many bytes an error left unwritten."""
    rest = memoryview(data)
    with suppress(OSError):
        while rest:
            rest = rest[_written(descriptor, rest) :]
    return len(rest)


def _written(descriptor: int, data: Any) -> int:
    """Writes a part of ``data`` and returns its size; waits while a non-blocking descriptor is full."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            _is_ready(descriptor, None)


def _is_ready(descriptor: int, within_ms: int | None) -> bool:
    """Returns whether a short write would not block; waits for this up to ``within_ms`` (None: no limit)."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(within_ms))


def print_line(line: str) -> bool:
    """Prints a line on standard output without blocking.

    Returns:
        Whether the line was written. If standard output is a full pipe, a thread writes the line when there is room.

    Raises:
        OutputError: Standard output is closed or full (a disk).
    """
    data = f"{line}\n".encode()
    if not _is_ready(STDOUT, 0):
        Thread(target=write_all, args=(STDOUT, data), name="stdout", daemon=True).start()
        return False
    try:
        os.write(STDOUT, data)  # does not block: a pipe that is ready accepts at least PIPE_BUF bytes
    except OSError as error:
        raise OutputError(error) from None
    return True


def print_error(line: str) -> None:
    """Prints a line on standard error; drops the line if standard error is full for a second."""
    if _is_ready(STDERR, _PATIENCE_MS):
        with suppress(OSError):
            os.write(STDERR, f"{line}\n".encode(errors="backslashreplace"))
