"""Runs the measured servers, each in a separate process, and reads their memory use."""

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.errors import BenchError

_STOP_SECONDS = 20.0


class Program:
    """A server that runs for the duration of the ``with`` block, with its standard error in a file.

    Attributes:
        port: its port on 127.0.0.1.
        pid: id of its process; with workers, of the supervisor.
    """

    def __init__(self, name: str, arguments: list[str], folder: Path) -> None:
        self._name = name
        self._arguments = arguments
        self._log_path = folder / f"{name}.log"

    def __enter__(self) -> Self:
        """Starts the server and waits for the line with its port."""
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        self.pid = self._process.pid
        if self._process.stdout is None:
            raise AssertionError("standard output is a pipe")
        line = self._process.stdout.readline().decode()
        if " listening on " not in line:
            self._process.wait()
            output = self._log_path.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise BenchError(f"{self._name} did not start: {output[-1]}")
        self.port = int(line.rpartition(":")[2])
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the server."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def memory(self) -> int:
        """Returns the memory in use (VmRSS) in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise BenchError(f"{self._name} has exited")


def service(name: str, redis_url: str, folder: Path, *options: str, port: int = 0) -> Program:
    """Returns the service, run by ``userservice serve``."""
    listen = f"127.0.0.1:{port}"
    return Program(name, ["userservice", "serve", "--listen", listen, "--redis-url", redis_url, *options], folder)


def baseline(redis_url: str, folder: Path) -> Program:
    """Returns the baseline server."""
    return Program("baseline", ["benchmarks.baseline", redis_url], folder)


def constant(record: bytes, users: int, folder: Path) -> Program:
    """Returns the server that sends constant bytes."""
    return Program("constant", ["benchmarks.constant", record.hex(), str(users)], folder)
