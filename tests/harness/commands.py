"""Runs the client's commands: in this process, which is fast, or as separate processes."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.services import clean_environment
from userservice.cli.main import run

PROGRAM = (sys.executable, "-m", "userservice")


class Result(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        return [
            json.loads(line) for line in self.out.removesuffix("\n").split("\n") if line
        ]  # text may contain other line ends


class CommandLine:
    """The client's commands with the address of a service, in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str], address: str) -> None:
        self._capfd = capfd
        self.address = address

    def __call__(self, *arguments: str | Path, connect: bool = True) -> Result:
        """Runs a command; `connect=False` leaves the address to the command."""
        self._capfd.readouterr()
        options = ["--address", self.address, "--timeout", "20"] if connect else []
        code = run([*(str(argument) for argument in arguments), *options])
        printed = self._capfd.readouterr()
        return Result(code, printed.out, printed.err)

    def error(self, code: int, *arguments: str | Path, connect: bool = True) -> str:
        """Runs a command that must fail with an exit code and one line; returns the line."""
        result = self(*arguments, connect=connect)
        assert (result.code, result.out) == (code, ""), result
        [line] = result.err.splitlines()
        assert line.startswith("userservice: error: ")
        return line.removeprefix("userservice: error: ")


def command(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = PROGRAM,
    stdin: str = "",
) -> Result:
    """Runs a command as a process."""
    done = subprocess.run(
        [*program, *(str(argument) for argument in arguments)],
        env={**clean_environment(), **(environment or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def without_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Removes the service's variables, and selects a new profile file in a folder."""
    for name in os.environ:
        if name.startswith("USERSERVICE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("USERSERVICE_PROFILES", str(folder / "profiles.toml"))
