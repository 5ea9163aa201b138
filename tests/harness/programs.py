"""Child processes whose output is read continuously, and which end with their test."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Literal, Self

Stream = Literal["stdout", "stderr"]


class Program:
    """A program in its own process group. Leaving the `with` block kills all remaining processes of the group."""

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        self.command = [str(part) for part in command]
        self._lines: dict[Stream, list[str]] = {"stdout": [], "stderr": []}
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment) if environment is not None else None,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
        )
        assert self._process.stdout
        assert self._process.stderr
        self._readers = [
            threading.Thread(target=self._read, args=("stdout", self._process.stdout), daemon=True),
            threading.Thread(target=self._read, args=("stderr", self._process.stderr), daemon=True),
        ]
        self._open_streams = len(self._readers)
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Stream, source: IO[str]) -> None:
        with source:
            for line in source:
                with self._changed:
                    self._lines[stream].append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._open_streams -= 1
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def stdout(self) -> list[str]:
        with self._changed:
            return list(self._lines["stdout"])

    @property
    def stderr(self) -> list[str]:
        with self._changed:
            return list(self._lines["stderr"])

    def wait_for(self, stream: Stream, pattern: str, within: float = 15) -> re.Match[str]:
        """Waits for a line that matches the pattern, and returns the first match."""
        seen = 0
        deadline = time.monotonic() + within
        with self._changed:
            while True:
                for line in self._lines[stream][seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self._lines[stream])
                left = deadline - time.monotonic()
                if left <= 0 or self._open_streams == 0:
                    text = "\n".join(self._lines["stdout"] + self._lines["stderr"])
                    ending = "ended" if self._open_streams == 0 else f"was silent for {within} s"
                    raise AssertionError(f"{self.command} {ending} without {pattern!r} on {stream}:\n{text}")
                self._changed.wait(left)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, within: float = 20) -> int:
        """Waits until the program has ended and its output is read; returns the exit code."""
        code = self._process.wait(within)
        for reader in self._readers:
            reader.join(5)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM, within: float = 20) -> int:
        self.send(number)
        return self.wait(within)

    def kill(self) -> None:
        """Kills the program and every process that it started, all at once."""
        victims = [self.pid, *descendants(self.pid)] if self.running else []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(10)
        for pid in victims:
            wait_until_gone(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for reader in self._readers:
            reader.join(5)


def _parents() -> dict[int, int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # After the name, which is in brackets and may hold anything: state, then the parent.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return parents


def descendants(pid: int) -> list[int]:
    """Returns the processes that `pid` started, and those that they started."""
    parents = _parents()
    found = [pid]
    for parent in found:
        found.extend(child for child, its_parent in parents.items() if its_parent == parent)
    return found[1:]


def command_line(pid: int) -> str:
    """Returns the command line of a process, or nothing if it has ended."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def wait_until_gone(pid: int, within: float = 10) -> None:
    deadline = time.monotonic() + within
    while command_line(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there: {command_line(pid)}"
        time.sleep(0.01)
