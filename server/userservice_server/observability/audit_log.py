"""The audit log: time, caller, method, user and call id of each change, without the content of the record.

A thread appends the lines, so that a slow disk does not delay calls. The thread opens the file for each batch of lines,
so the file can be renamed at any time (logrotate). Several workers can share the file, because each batch is appended
in one write. Only a full disk splits a batch.
"""

import logging
import os
import stat
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

from userservice_server.config import ConfigError
from userservice_server.observability.json_lines import json_line

# Seconds. A killed process can lose the lines of this time, and more if the disk is slow or full.
_WRITE_INTERVAL = 0.05
_MAX_LINES = 100_000  # waiting lines, for example while the disk is full; further lines are dropped
_MODE = 0o600
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK

logger = logging.getLogger("userservice.audit")


class AuditLog:
    """Appends lines to a file.

    Attributes:
        dropped: number of lines that were dropped since the process started, because too many waited.

    Args:
        path: the file; created if it does not exist.

    Raises:
        ConfigError: the file cannot be opened, is not a regular file, or is writable by its group or others.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: deque[dict[str, Any]] = deque()
        self._stopping = Event()
        self._is_failing = False
        self.dropped = 0
        self._reported = 0
        try:
            os.close(self._opened())
        except OSError as error:
            raise ConfigError(f"--audit-log {path} cannot be opened: {error.strerror}") from None
        self._writer = Thread(target=self._run, name="audit", daemon=True)
        self._writer.start()

    def add(self, fields: dict[str, Any]) -> None:
        """Adds a line with these fields and the time, without waiting; drops the line if too many lines wait."""
        if len(self._waiting) >= _MAX_LINES:
            self.dropped += 1
            return
        self._waiting.append({"time": datetime.fromtimestamp(time.time(), UTC), **fields})

    def close(self, within: float) -> None:
        """Writes the waiting lines; gives up after ``within`` seconds."""
        self._stopping.set()
        self._writer.join(within)

    def _run(self) -> None:
        while not self._stopping.wait(_WRITE_INTERVAL):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = [self._waiting[number] for number in range(len(self._waiting))]
        if not lines:
            return
        try:
            self._append(b"".join(json_line(line) for line in lines))
        except (OSError, ConfigError) as error:
            self._failed(os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error))
            return
        for _ in lines:
            self._waiting.popleft()
        lost = self.dropped - self._reported
        if self._is_failing or lost:
            logger.warning("the audit log can be written again", extra={"lost_lines": lost})
        self._is_failing, self._reported = False, self._reported + lost

    def _failed(self, cause: str) -> None:
        if not self._is_failing:
            logger.error("the audit log cannot be written; its lines are kept in memory", extra={"cause": cause})
        self._is_failing = True

    def _append(self, lines: bytes) -> None:
        descriptor = self._opened()
        try:
            while lines:
                lines = lines[os.write(descriptor, lines) :]
        finally:
            os.close(descriptor)

    def _opened(self) -> int:
        descriptor = os.open(self._path, _FLAGS, _MODE)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise ConfigError(f"--audit-log {self._path} must be a regular file")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            os.close(descriptor)
            raise ConfigError(f"--audit-log {self._path} can be changed by its group or by others; use chmod go-w")
        return descriptor
