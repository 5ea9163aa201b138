"""The benchmarks of single features start, measure and print their figures. The figures themselves are not judged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.tools import require

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent
MISSED = 1  # the exit code if a figure does not reach its goal


@pytest.mark.parametrize(
    ("arguments", "figure"),
    [
        (
            [
                "imports",
                "--parts",
                "rates",
                "memory",
                "turns",
                "--rounds",
                "1",
                "--rows",
                "1000",
                "--memory-rows",
                "5000",
            ],
            "import relative to add",
        ),
        (["metrics", "--rounds", "1", "--calls", "64", "--users", "1000"], "scrape"),
        (["session_expiry", "--sessions", "2000", "--seconds", "1", "--touches", "100"], " 0 expired sessions shown"),
        (["shared_reads", "--rounds", "1", "--clients", "asyncio"], "service µs"),
        (["topologies", "--rounds", "1", "--calls", "64", "--users", "2000"], "parts, one after the other"),
        (["tracing", "--rounds", "1", "--calls", "64"], "with tracing x"),
        (
            ["watch", "--watches", "1", "3", "--rate", "200", "--seconds", "1", "--rounds", "1", "--writes", "64"],
            "watches: 3: 0 of ",
        ),
        (["views", "--rounds", "1", "--users", "1000"], "relative to FULL"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_benchmark_prints_its_figures(arguments: list[str], figure: str) -> None:
    require("h2load")
    name, *options = arguments
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, MISSED}, done.stderr
    assert "Traceback" not in done.stderr
    assert figure in done.stdout
