"""Reloads files that change while the service runs: certificates, keys files, key sets.

A thread reads the files several times a second and compares their contents. To compare modification times would not be
enough: a mounted secret of Kubernetes is a symbolic link that changes, and a file can be rewritten within the
resolution of its modification time.
The event loop does not read the files, because a network file system can be slow.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

from userservice_server.config.error import ConfigError

INTERVAL = 0.2  # seconds between two readings

TLS_CERTIFICATES, KEYS_FILE, JWKS_FILE, JWKS_URL = "TLS certificates", "keys file", "JWKS file", "JWKS URL"
RELOADED = (TLS_CERTIFICATES, KEYS_FILE, JWKS_FILE, JWKS_URL)
"""The names of everything that is loaded again while the service runs, in the log and in metrics."""

logger = logging.getLogger("userservice.reload")

Contents = tuple[bytes, ...]


@dataclass(eq=False)
class Watched:
    """Files that are read, checked and applied together.

    Attributes:
        name: the name of the files in the log.
        read: reads the files.
        parse: checks the contents and returns a parsed value.
        use: applies a parsed value; called in the watching thread.
        in_use: the contents in use; initially the contents that were checked at startup.

    ``read`` and ``parse`` raise ConfigError if the files cannot be used.
    """

    name: str
    read: Callable[[], Contents]
    parse: Callable[[Contents], Any]
    use: Callable[[Any], object]
    in_use: Contents
    _bad: tuple[Contents, str] | None = field(default=None, init=False)
    _fault: str = field(default="", init=False)
    _is_reported: bool = field(default=False, init=False)

    def check(self) -> str:
        """Applies changed contents if they are valid.

        Returns:
            The fault to report, or an empty string. A fault is reported once, and not before a second reading finds
            the same fault: a certificate and its key are rarely replaced in one step.
        """
        try:
            contents = self.read()
            fault = "" if contents == self.in_use else self._try(contents)
        except ConfigError as error:
            fault = str(error)
        if not fault or fault != self._fault:
            self._fault, self._is_reported = fault, False
            return ""
        was_reported, self._is_reported = self._is_reported, True
        return "" if was_reported else fault

    def _try(self, contents: Contents) -> str:
        """Applies contents, or returns why they are not valid. The same invalid contents are not parsed again."""
        if self._bad is not None and self._bad[0] == contents:
            return self._bad[1]
        try:
            value = self.parse(contents)
        except ConfigError as error:
            self._bad = contents, str(error)
            return str(error)
        self.use(value)
        self.in_use, self._bad = contents, None
        logger.info("reloaded", extra={"file": self.name})
        return ""


class WatchedFiles:
    """Watches files until the process ends.

    Attributes:
        failures: number of failed reloads, by the name of the files.
    """

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self._watched: list[Watched] = []
        self._stopping = Event()

    def add(self, watched: Watched) -> None:
        """Adds files to watch."""
        self._watched.append(watched)

    def start(self) -> None:
        """Starts the watching thread if there are files to watch."""
        if self._watched:
            Thread(target=self._run, name="files", daemon=True).start()

    def stop(self) -> None:
        """Stops watching; does not wait for a file that is being read."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            for watched in self._watched:
                self.check(watched)

    def check(self, watched: Watched) -> None:
        """Reads files once and logs a fault. After a fault, the last valid contents stay in use."""
        try:
            fault = watched.check()
        except Exception as error:  # noqa: BLE001 - no content of a file may end the thread
            fault = f"cannot be used: {type(error).__name__}"
            time.sleep(1)  # this fault is reported at each reading, so the log needs a limit
        if fault:
            self.failures[watched.name] += 1
            fields = {"file": watched.name, "fault": fault, "failures": self.failures[watched.name]}
            logger.error("reload failed; the last valid version stays in use", extra=fields)
