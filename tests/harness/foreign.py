"""Clients of the service in other languages, built once per session from tests/foreign/."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import google.rpc

from harness.tools import require

ROOT = Path(__file__).parents[2]
FOREIGN = ROOT / "tests" / "foreign"
OWN = ("--path", ROOT / "protos" / "userservice")
"""Options that leave out the protos of Google, of which the Go program has the published package."""

_BUILD_SECONDS = 300


@dataclass(frozen=True)
class ForeignClient:
    """A program that makes the calls of one case and prints what it found as JSON."""

    name: str
    command: tuple[str, ...]

    def start(
        self, case: str, address: str, *arguments: object, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        command = [*self.command, case, address, *map(str, arguments)]
        variables = {**os.environ, **(environment or {})}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)

    def run(
        self,
        case: str,
        address: str,
        *arguments: object,
        within: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> Any:
        """Runs a case and returns what it printed."""
        return self.result(self.start(case, address, *arguments, environment=environment), within)

    def result(self, process: "subprocess.Popen[str]", within: float) -> Any:
        """Waits for a started case and returns what it printed."""
        with process:
            try:
                printed, complaints = process.communicate(timeout=within)
            finally:
                process.kill()
        assert process.returncode == 0, f"{self.name}: {complaints}"
        return json.loads(printed)


@cache
def go_client() -> ForeignClient:
    """grpc-go with stubs of protoc-gen-go."""
    folder, go = FOREIGN / "go", require("go")
    _generate(folder, ROOT / "protos", *OWN)
    _build([go, "build", "-o", "bin/foreign", "."], folder)
    return ForeignClient("grpc-go", (str(folder / "bin" / "foreign"),))


def grpc_js_client() -> ForeignClient:
    """grpc-js with protos loaded at run time."""
    return _node_client("grpc-js")


def connect_node_client() -> ForeignClient:
    """connect-node with stubs of protoc-gen-es."""
    return _node_client("connect-node")


def _node_client(library: str) -> ForeignClient:
    return ForeignClient(library, (str(require("node")), str(_node_folder() / "main.js"), library))


@cache
def _node_folder() -> Path:
    folder = FOREIGN / "node"
    installed = folder / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (folder / "package-lock.json").stat().st_mtime:
        _build([require("npm"), "ci", "--no-audit", "--no-fund", "--loglevel=error"], folder)
    _generate(folder, ROOT / "protos", *OWN)
    with tempfile.TemporaryDirectory() as protos:
        target = Path(protos) / "google" / "rpc"
        target.mkdir(parents=True)
        for name in ("error_details.proto", "status.proto"):
            shutil.copy(Path(google.rpc.__path__[0]) / name, target)
        _generate(folder, Path(protos))
    return folder


def _generate(folder: Path, protos: Path, *options: str | Path) -> None:
    _build([require("buf"), "generate", protos, "--template", "buf.gen.yaml", *options], folder)


def _build(command: list[str | Path], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
