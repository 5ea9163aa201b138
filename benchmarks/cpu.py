"""Reads the CPU time and memory of processes from /proc. Other processes on the machine hardly affect these figures."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_USER_FIELD = 11  # the position of utime in /proc/PID/stat after the name of the program; stime follows


class EndedError(Exception):
    """The process has exited."""


def cpu_seconds(pid: int) -> float:
    """Returns the CPU time of a process and its descendants since they started."""
    return sum(_cpu_seconds(member) for member in _tree(pid))


def cpu_nanoseconds(pid: int) -> int:
    """Returns the CPU time of the running threads of one process, more precisely than ``cpu_seconds``."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks)


def memory(pid: int) -> int:
    """Returns the memory in use (VmRSS) in bytes by a process and its descendants."""
    return sum(_memory(member) for member in _tree(pid))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                yield from _tree(int(child))


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise EndedError from None
    return sum(map(int, fields[_USER_FIELD : _USER_FIELD + 2])) / _TICKS_PER_SECOND


def _memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        raise EndedError from None
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
