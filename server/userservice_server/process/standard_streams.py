"""Standard input, output and error: closed ones, full ones, and ones that nobody reads."""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from threading import Thread
from typing import Any

STDIN, STDOUT, STDERR = 0, 1, 2
_PATIENCE_MS = 1000  # for standard error, to take the last line


class OutputError(Exception):
    """Standard output did not take what was written. Not an OSError, because click handles some of those itself."""

    def __init__(self, cause: OSError) -> None:
        why = "it is closed" if cause.errno == errno.EBADF else cause.strerror
        super().__init__(f"cannot write to standard output: {why}")
        self.is_closed_pipe = isinstance(cause, BrokenPipeError)


def open_standard_streams() -> None:
    """Puts /dev/null in the place of closed standard descriptors, and makes errors of standard output visible.

    Otherwise the next file or socket would get the number of a closed descriptor, and log lines would be written to it.
    A closed standard output is opened read-only: whatever is written to it still fails.
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
    # Python has set those that were closed to None.
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
    """Standard output with errors that name it."""

    def writable(self) -> bool:
        """Says yes: a stream to write to."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return STDOUT

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(STDOUT)

    def write(self, data: Any) -> int:
        """Writes what the descriptor takes.

        Raises:
            OutputError: It takes nothing.
        """
        try:
            return _written(STDOUT, data)
        except OSError as error:
            raise OutputError(error) from None


def write_all(descriptor: int, data: bytes) -> int:
    """Writes all of ``data``, also to a descriptor in non-blocking mode; returns how many bytes an error left over."""
    rest = memoryview(data)
    with suppress(OSError):
        while rest:
            rest = rest[_written(descriptor, rest) :]
    return len(rest)


def _written(descriptor: int, data: Any) -> int:
    """Writes a part of ``data``; waits if the descriptor is in non-blocking mode and takes nothing yet."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            _is_ready(descriptor, None)


def _is_ready(descriptor: int, within_ms: int | None) -> bool:
    """Whether a short line can be written without waiting, or fails without waiting."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(within_ms))


def print_line(line: str) -> bool:
    """Prints a line on standard output without ever waiting for its reader.

    Returns:
        Whether the line is written. If standard output is a pipe that is full, a thread waits for the reader.

    Raises:
        OutputError: Standard output is closed or full (a disk).
    """
    data = f"{line}\n".encode()
    if not _is_ready(STDOUT, 0):
        Thread(target=write_all, args=(STDOUT, data), name="stdout", daemon=True).start()
        return False
    try:
        os.write(STDOUT, data)  # at once and as a whole: a pipe that is ready takes at least PIPE_BUF bytes
    except OSError as error:
        raise OutputError(error) from None
    return True


def print_error(line: str) -> None:
    """Prints a line on standard error, unless nobody reads it within a second."""
    if _is_ready(STDERR, _PATIENCE_MS):
        with suppress(OSError):
            os.write(STDERR, f"{line}\n".encode(errors="backslashreplace"))
