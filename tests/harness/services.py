"""The real service as a child process, started with the public command."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.programs import Program, command_line, descendants
from harness.waiting import until


def clean_environment() -> dict[str, str]:
    """Returns the environment without settings of the service and its traces, which would leak into a test."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("USERSERVICE_", "OTEL_"))}


class Service(Program):
    """`python -m userservice serve …`. Takes a free port unless told otherwise, and is ready once it is made."""

    def __init__(
        self,
        *arguments: str | Path,
        redis_url: str | None = None,
        data_dir: Path | None = None,
        listen: str = "127.0.0.1:0",
        environment: Mapping[str, str] | None = None,
        wait: bool = True,
        program: Sequence[str | Path] = ("-m", "userservice"),
    ) -> None:
        command: list[str | Path] = [sys.executable, *program, "serve", "--listen", listen]
        if redis_url is not None:
            command += ["--redis-url", redis_url]
        if data_dir is not None:
            command += ["--data-dir", data_dir]
        super().__init__([*command, *arguments], {**clean_environment(), **(environment or {})})
        self.address = ""
        if wait:
            try:
                self.address = self.wait_for("stdout", r"^userservice listening on (\S+)$")[1]
            except BaseException:
                self.__exit__()
                raise

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def log(self) -> list[dict[str, Any]]:
        """Returns the log lines so far. Fails if a line is not a JSON object."""
        return self.log_lines_with("")

    def log_lines_with(self, text: str) -> list[dict[str, Any]]:
        """Returns the log lines that contain the text, because a shared service has a long log."""
        records = [json.loads(line) for line in self.stderr if text in line]
        assert all(isinstance(record, dict) for record in records)
        return records

    @property
    def store_pid(self) -> int:
        """Returns the process id of the embedded store."""

        def find() -> list[int]:
            return [pid for pid in descendants(self.pid) if "valkey-server" in command_line(pid)]

        [pid] = until(find)
        return pid


class InstrumentedService(Service):
    """A service with diagnostics; see instrumented.py."""

    def __init__(self, *arguments: str | Path, redis_url: str, window: str = "instrumented.py") -> None:
        self._asked = 0
        super().__init__(*arguments, redis_url=redis_url, program=[Path(__file__).parent / window])

    def inside(self) -> dict[str, int]:
        """Returns its counts: tasks and file descriptors or, with `uncollected.py`, objects in reference cycles."""
        self.send(signal.SIGUSR1)
        self._asked += 1
        answers = until(lambda: [line for line in self.stdout if line.startswith("inside: ")][self._asked - 1 :])
        counts: dict[str, int] = json.loads(answers[0].removeprefix("inside: "))
        return counts

    def at_rest(self) -> dict[str, int]:
        """Waits until no call is running, and returns the counts."""
        last = self.inside()
        for _ in range(100):
            time.sleep(0.1)
            before, last = last, self.inside()
            if last == before:
                return last
        raise AssertionError(f"the service is never at rest: {last}")


def resident(pid: int) -> int:
    """Returns the resident memory of a process in bytes."""
    return _memory(pid, "VmRSS")


def peak(pid: int) -> int:
    """Returns the peak resident memory of a process in bytes."""
    return _memory(pid, "VmHWM")


def _memory(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024
