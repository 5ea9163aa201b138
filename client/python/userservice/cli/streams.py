"""Writes to the standard streams; a failed write to standard output ends the command."""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import suppress
from typing import IO

STDIN, STDOUT, STDERR = 0, 1, 2

# Secrets that a user may have typed in the wrong place: keys of the service, JWTs, and passwords in URLs.
_SECRET = re.compile(r"usk_\w+|eyJ[\w-]+\.[\w.-]+|(?<=:/)/?\S*(?=@)|(?<=password=)[^\s&'\"]+")

# Characters that change how a terminal shows other text. Stored text may contain them.
_UNSAFE_ON_TERMINALS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class OutputError(Exception):
    """A write to standard output failed. Not an OSError, because click handles some of them itself."""

    def __init__(self, cause: OSError) -> None:
        why = "it is closed" if cause.errno == errno.EBADF else cause.strerror
        super().__init__(f"cannot write to standard output: {why}")
        self.is_closed_pipe = isinstance(cause, BrokenPipeError)


def open_standard_streams() -> None:
    """Opens /dev/null for closed standard descriptors.

    Otherwise the next file or connection would get the number of a closed descriptor, and output would be written to
    it. A closed standard output is opened read-only, so that writes to it still fail.
    """
    for descriptor, mode in ((STDIN, os.O_RDONLY), (STDOUT, os.O_RDONLY), (STDERR, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free number, which is that of the closed descriptor
    streams = vars(sys)  # Python sets the stream of a closed descriptor to None
    if streams["stdin"] is None:
        sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115
    if streams["stdout"] is None:
        sys.stdout = open(STDOUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if streams["stderr"] is None:
        sys.stderr = open(STDERR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def use_utf8(stream: IO[str]) -> None:
    """Makes a standard stream UTF-8 if it is a file or pipe, whatever the locale; a terminal keeps its encoding."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace", newline="\n")


def write(text: str) -> None:
    """Writes data to standard output; on a terminal, without control characters, which stored text may contain.

    Raises:
        OutputError: If the write failed.
    """
    _write(safe_on_terminals(text) if sys.stdout.isatty() else text)


def write_styled(line: str) -> None:
    """Writes a line with control characters that the command itself has added; its data must be safe."""
    _write(f"{line}\n")


def safe_on_terminals(text: str) -> str:
    """Returns the text with JSON escapes for characters that change how a terminal shows other text."""
    return _UNSAFE_ON_TERMINALS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
    except OSError as error:
        raise OutputError(error) from None


def flush() -> None:
    """Writes what standard output has buffered.

    Raises:
        OutputError: If the write failed.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from None


def note(line: str) -> None:
    """Prints a line for people on standard error."""
    data = f"{line}\n".encode(errors="backslashreplace")
    with suppress(OSError):  # the exit code is the result, also if nobody reads this line
        os.write(STDERR, data)


def note_on_terminal(line: str) -> None:
    """Prints a line for people on standard error if it is a terminal."""
    if sys.stderr.isatty():
        note(line)


def print_error(message: str) -> None:
    """Prints an error on one line. Secrets are hidden, because a message can contain a wrong argument."""
    shown = _SECRET.sub("***", " ".join(message.split()))
    note(f"userservice: error: {safe_on_terminals(shown)}")


def colours(stream: IO[str]) -> bool:
    """Returns whether colours and bold text are wanted on a stream (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
