"""Runs the measured servers, each in a separate process."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import cpu, engines
from benchmarks.errors import BenchError

_STOP_SECONDS = 20.0


class Program:
    """A server that runs for the duration of the ``with`` block, with its standard error in a file.

    Attributes:
        port: its port on 127.0.0.1.
        pid: id of its process; with workers, of the supervisor.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = name
        self._command = command
        self._log_path = folder / f"{name}.log"
        self._environment = environment

    def __enter__(self) -> Self:
        """Starts the server and waits for the line with its port."""
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=self._environment
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
        """Returns the memory in use (VmRSS) in bytes, including all workers."""
        try:
            return cpu.memory(self.pid)
        except cpu.EndedError:
            raise BenchError(f"{self._name} has exited") from None

    def cpu_seconds(self) -> float:
        """Returns the CPU time since the start, including all workers."""
        try:
            return cpu.cpu_seconds(self.pid)
        except cpu.EndedError:
            raise BenchError(f"{self._name} has exited") from None


def service(
    name: str,
    redis_url: str,
    folder: Path,
    *options: str,
    port: int = 0,
    engine: str = engines.SERVICE,
    variables: Mapping[str, str] | None = None,
) -> Program:
    """Returns the service, run by ``userservice serve`` with additional environment variables."""
    command = [sys.executable, "-m", "userservice", "serve", "--listen", f"127.0.0.1:{port}", "--redis-url", redis_url]
    return Program(name, [*command, *options], folder, {**engines.environment(engine), **(variables or {})})


def baseline(redis_url: str, folder: Path) -> Program:
    """Returns the baseline server."""
    command = [sys.executable, "-m", "benchmarks.baseline", redis_url]
    return Program("baseline", command, folder, engines.environment(engines.DEFAULT))


def constant(name: str, record: bytes, users: int, folder: Path, engine: str) -> Program:
    """Returns the server that sends constant bytes."""
    command = [sys.executable, "-m", "benchmarks.constant", record.hex(), str(users)]
    return Program(name, command, folder, engines.environment(engine))


def go_peer(name: str, program: Path, store_path: str, folder: Path) -> Program:
    """Returns a Go server that was built from ``benchmarks/peers``."""
    return Program(name, [program, store_path], folder, dict(os.environ))
