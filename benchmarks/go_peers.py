"""Builds the Go servers in ``benchmarks/peers``, if there is a Go toolchain."""

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "peers"
_PROTOS = Path(__file__).parents[1] / "protos"
_BUILD_SECONDS = 600.0


class NotBuiltError(Exception):
    """The peers cannot be built. The text is one line."""


def build() -> dict[str, Path]:
    """Generates the stubs and builds the servers; returns their programs by name.

    Raises:
        NotBuiltError: there is no Go toolchain, or the build failed, for example without network.
    """
    go = shutil.which("go")
    if go is None:
        raise NotBuiltError("Go is not installed")
    beside = Path(sys.executable).parent / "buf"
    buf = shutil.which("buf") or (str(beside) if beside.exists() else None)
    if buf is None:
        raise NotBuiltError("buf is not installed; it comes with the wheel buf-bin")
    _run([buf, "generate", str(_PROTOS), "--path", str(_PROTOS / "userservice"), "--template", "buf.gen.yaml"])
    _run([go, "build", "-mod=readonly", "-o", "bin/", "./plain", "./encoded"])
    return {name: FOLDER / "bin" / name for name in ("plain", "encoded")}


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotBuiltError(f"{Path(command[0]).name} took longer than {_BUILD_SECONDS:g} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise NotBuiltError(f"{' '.join([Path(command[0]).name, *command[1:2]])} failed: {lines[-1]}")
