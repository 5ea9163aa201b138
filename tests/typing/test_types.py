"""What type checkers say of programs that use the client: accepted.py has no error, and rejected.py one in each line
that has a comment.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import userservice

HERE = Path(__file__).parent
CLIENT = Path(userservice.__file__).parents[1]
SNIPPETS = [HERE / "accepted.py", HERE / "rejected.py"]

Lines = set[tuple[str, int]]

pytestmark = pytest.mark.long


def run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def mypy(folder: Path) -> Lines:
    config = folder / "mypy.ini"
    config.write_text(f"[mypy]\nstrict = true\nmypy_path = {CLIENT}\ncache_dir = {folder}\n")
    text = run(sys.executable, "-m", "mypy", "--config-file", config, *SNIPPETS)
    found = re.findall(r"^(\S+\.py):(\d+): error:", text, re.MULTILINE)
    return {(Path(file).name, int(line)) for file, line in found}


def pyright(folder: Path) -> Lines:
    """Pyright's own strict mode; basedpyright is the same checker in a wheel that contains Node."""
    config = folder / "pyrightconfig.json"
    settings = {"include": [str(HERE)], "typeCheckingMode": "strict", "extraPaths": [str(CLIENT)]}
    config.write_text(json.dumps(settings))
    text = run(
        Path(sys.executable).with_name("basedpyright"),
        "--project",
        config,
        "--pythonpath",
        sys.executable,
        "--outputjson",
    )
    found = json.loads(text)["generalDiagnostics"]
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1)
        for each in found
        if each["severity"] == "error" and Path(each["file"]) in SNIPPETS
    }


@pytest.mark.parametrize("check", [mypy, pyright])
def test_type_checkers_find_exactly_the_mistakes_in_fields(check: Callable[[Path], Lines], tmp_path: Path) -> None:
    rejected = HERE / "rejected.py"
    expected = {
        (rejected.name, number) for number, line in enumerate(rejected.read_text().splitlines(), 1) if "  # " in line
    }
    assert len(expected) > 15
    assert check(tmp_path) == expected
