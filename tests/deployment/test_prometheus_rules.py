"""Prometheus' own tool accepts the alert rules, and each alert fires on the data that it is for."""

import subprocess
from pathlib import Path

import pytest
from harness.tools import require

pytestmark = pytest.mark.long
FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"


@pytest.mark.parametrize(
    "command",
    [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")],
    ids=" ".join,
)
def test_promtool_accepts(command: tuple[str, ...]) -> None:
    ended = subprocess.run([require("promtool"), *command], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "SUCCESS" in ended.stdout
