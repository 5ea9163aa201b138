"""The Dockerfile follows the rules of hadolint; the systemd unit those of systemd-analyze."""

import subprocess
import sys
from pathlib import Path

import pytest
from harness.tools import require

pytestmark = pytest.mark.long
DEPLOY = Path(__file__).parents[2] / "deploy"
MOST_EXPOSED = 13  # of 100; a unit without any restriction has 96


def test_the_dockerfile_has_no_findings() -> None:
    command = [str(require("hadolint")), "--failure-threshold", "style", str(DEPLOY / "Dockerfile")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a path to a program that exists here."""
    text = (DEPLOY / "systemd" / "userservice.service").read_text()
    installed = "/opt/userservice/bin/userservice"
    assert installed in text
    path = tmp_path / "userservice.service"
    path.write_text(text.replace(installed, str(Path(sys.executable).parent / "userservice")))
    return path


def test_systemd_accepts_the_unit(unit: Path) -> None:
    command = [str(require("systemd-analyze")), "verify", "--man=no", str(unit)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in ended.stderr.splitlines() if "userservice.service" in line]
    assert (ended.returncode, complaints) == (0, []), ended.stderr


def test_the_unit_is_restricted(unit: Path) -> None:
    command = [str(require("systemd-analyze")), "security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(unit)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert "Overall exposure level" in ended.stdout
