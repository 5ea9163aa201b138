"""The real service as a child process: the command that users run, and nothing else."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.programs import Program, command_line, descendants
from harness.waiting import until


def clean_environment() -> dict[str, str]:
    """Returns the environment without the service's own settings, which would otherwise leak into a test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("USERSERVICE_")}


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
    ) -> None:
        command: list[str | Path] = [sys.executable, "-m", "userservice", "serve", "--listen", listen]
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
        """The log so far. Fails on a line that is not a JSON object."""
        return self.log_lines_with("")

    def log_lines_with(self, text: str) -> list[dict[str, Any]]:
        """Returns what the log says in lines that hold the text: a shared service has a long log."""
        records = [json.loads(line) for line in self.stderr if text in line]
        assert all(isinstance(record, dict) for record in records)
        return records

    @property
    def store_pid(self) -> int:
        """The process of the embedded store."""

        def find() -> list[int]:
            return [pid for pid in descendants(self.pid) if "valkey-server" in command_line(pid)]

        [pid] = until(find)
        return pid
