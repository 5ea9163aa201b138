"""Checks whether the machine has enough memory and disk space for a store."""

import shutil
from pathlib import Path

_BYTES_A_USER = 1200  # memory of a user in a store that rewrites its append-only file
_BYTES_BESIDE = 1 << 30  # memory of servers, readers and the plot
_DISK_BYTES_A_USER = 1500  # in the append-only file, and in a second file during its rewrite
_GIB = 2**30


def lack(users: int, folder: Path) -> str | None:
    """Returns what is missing for this number of additional users, in one line; None if memory and disk suffice."""
    memory, disk = users * _BYTES_A_USER + _BYTES_BESIDE, users * _DISK_BYTES_A_USER
    available, free = _available_memory(), shutil.disk_usage(folder).free
    if available is not None and available < memory:
        return f"{users} users need {memory / _GIB:.1f} GiB of memory, {available / _GIB:.1f} GiB are available"
    if free < disk:
        return f"{users} users need {disk / _GIB:.1f} GiB of disk space, {free / _GIB:.1f} GiB are free"
    return None


def _available_memory() -> int | None:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
