"""Runs the tests of the TypeScript client in a copy of the code, with the installed packages of the original."""

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path("client/typescript")
_SECONDS = 120


class BuildError(Exception):
    """The mutated client does not compile, so its test cannot run."""


def is_typescript(test: tuple[str, ...]) -> bool:
    """Returns whether a test (a file, and options of its runner) is a test of the TypeScript client."""
    return test[0].endswith(".test.ts")


def failure_of(test: tuple[str, ...], root: Path, folder: Path) -> str | None:
    """Returns how a test of the copy in ``folder`` failed, or None if it passed.

    Raises:
        BuildError: If the copy does not compile.
    """
    package = folder / PACKAGE
    if not (package / "node_modules").exists():
        (package / "node_modules").symlink_to(root / PACKAGE / "node_modules")
        for command in ("npm run --silent build", "node_modules/.bin/tsc --project test"):
            built = subprocess.run(command.split(), cwd=package, capture_output=True, text=True, check=False)
            if built.returncode != 0:
                raise BuildError(built.stdout + built.stderr)
    compiled = Path(".build") / (Path(test[0]).stem + ".js")
    test_command = ["node", "--test", "--test-reporter=tap", *test[1:], str(compiled)]
    variables = {**os.environ, "USERSERVICE_PYTHON": sys.executable}
    try:
        ended = subprocess.run(
            test_command, cwd=package, env=variables, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no end within {_SECONDS} s"
    return None if ended.returncode == 0 else _first_error(ended.stdout)


def _first_error(tap: str) -> str:
    lines = [line.strip() for line in tap.splitlines()]
    for number, line in enumerate(lines):
        if line.startswith("error: "):
            text = line.removeprefix("error: ")
            return lines[number + 1] if text.startswith("|-") else text.strip("'")
    return "failed"
