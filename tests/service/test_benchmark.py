"""The benchmark measures what it can on a machine without Go, h2load and Node."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import rows

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


def test_without_go_and_h2load_the_rest_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="`make bench` installs it")
    empty = tmp_path / "bin"
    empty.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--size", "tiny", "--output", tmp_path / "out"],
        env={"PATH": str(empty)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert "bench: not measured: plain Go: Go is not installed" in lines
    assert lines.count("bench: not measured: encoded Go: Go is not installed") == 1
    assert any(line.startswith("bench: not measured: streams: h2load is not installed") for line in lines)
    document = json.loads((tmp_path / "out" / "performance.json").read_text())
    figures = {figure["name"]: figure["values"] for figure in document["figures"]}
    assert {rows.SERVICE, rows.CONSTANT} == set(figures[rows.UPDATE])
    assert rows.SERVICE in figures[rows.percentile(rows.HALF_LOAD, "p99")]
    assert rows.STREAM_1000 not in figures
    assert {rows.PLAIN, rows.ENCODED, "streams"} <= set(document["missing"])
