"""Disables each safeguard in a copy of the code, one after the other, and checks that its test fails.

Run `python -m mutations [NAME…]` in tests/, or `make mutations`. The *.toml files in this folder define the mutations,
one file for each part of the code. Exit code 1: a test passed without its safeguard, or could not run.
Every run writes the rows of its mutations into docs/mutation-tests.md.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutations import typescript

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "mutation-tests.md"
COPIED = ("server", "client/python", "client/typescript")
_MADE = ("__pycache__", "node_modules", "dist", ".build")
_TABLE = re.compile(r"(?<=<!-- mutations: written by make mutations -->\n).*?(?=<!-- end of mutations -->)", re.DOTALL)
ROW = re.compile(r"^\| .* \(`([a-z0-9-]+)`\) \| .* \|$", re.MULTILINE)
_OF_THIS_RUN = re.compile(
    rf"{ROOT}/|/tmp/\S*/|\.<locals>|\.<lambda>| at 0x[0-9a-f]+"
)  # parts of a failure that differ in each run, or contain no information
_LONGEST_FAILURE = 140
_SECONDS = 60
_SHORT = {"FAULTS", "FAULTS_SEED", "FAULTS_SOAK_SECONDS"}  # unset, for the sizes of `make test` and a random seed
EXPECTED = "failed as expected: "
_FAILED = 1  # pytest's exit code for tests that failed; others mean that none was run


class UnusableError(Exception):
    """A mutation cannot be applied or its test cannot run; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One safeguard, the change that disables it, and the test that must then fail.

    Attributes:
        name: the name of the mutation.
        taken_out: the safeguard, described as it works when it is not disabled.
        changes: file, a text that occurs exactly once in it, and its replacement.
        test: arguments of pytest; for a test of the TypeScript client, its file and arguments of Node's test runner.
        tries: the maximum number of runs until the test fails, for tests with random events.
    """

    name: str
    taken_out: str
    changes: tuple[tuple[str, str, str], ...]
    test: tuple[str, ...]
    tries: int

    @classmethod
    def parse(cls, name: str, entry: dict[str, Any]) -> "Mutation":
        changes = tuple((change["file"], change["find"], change["put"]) for change in entry["changes"])
        return cls(name, entry["taken_out"], changes, tuple(entry["test"]), entry.get("tries", 1))

    def changed(self, folder: Path) -> dict[Path, str]:
        """Returns the new texts of the changed files below ``folder``."""
        texts: dict[Path, str] = {}
        for file, find, put in self.changes:
            path = folder / file
            text = texts.get(path) or path.read_text()
            if (count := text.count(find)) != 1:
                raise UnusableError(f"{self.name}: {file} contains this text {count} times instead of once: {find!r}")
            texts[path] = text.replace(find, put)
            if path.suffix == ".py":
                compile(texts[path], file, "exec")  # with a syntax error, every test would fail
        return texts


def load() -> dict[str, Mutation]:
    """Returns all mutations by name, in the order of the files and of the entries within them."""
    known: dict[str, Mutation] = {}
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        for name, entry in tomllib.loads(path.read_text()).items():
            if name in known:
                raise UnusableError(f"{path.name}: there is another mutation {name}")
            known[name] = Mutation.parse(name, entry)
    return known


def copy(folder: Path) -> None:
    for part in COPIED:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns(*_MADE))


def environment(folder: Path) -> dict[str, str]:
    """Returns an environment in which pytest, and the services that it starts, import the copy instead of the code."""
    kept = {name: value for name, value in os.environ.items() if name not in _SHORT}
    made = {**kept, "COLUMNS": "240", "PYTHONPATH": os.pathsep.join(str(folder / part) for part in COPIED[:2])}
    look = "import userservice, userservice_server as server; print(userservice.__file__, server.__file__)"
    shown = subprocess.run([sys.executable, "-c", look], env=made, cwd=ROOT, capture_output=True, text=True, check=True)
    if not all(Path(file).is_relative_to(folder) for file in shown.stdout.split()):
        raise UnusableError(f"the copy in {folder} is not imported, but: {shown.stdout}")
    return made


def run(mutation: Mutation) -> str | None:
    """Applies the mutation to a copy and runs its test; returns the failure, or None if the test passed."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as made:
        folder = Path(made).resolve()
        copy(folder)
        for path, text in mutation.changed(folder).items():
            path.write_text(text)
        variables = environment(folder)
        for _ in range(mutation.tries):
            if (failure := failure_of(mutation, variables, folder)) is not None:
                return failure
    return None


def failure_of(mutation: Mutation, variables: dict[str, str], folder: Path) -> str | None:
    if typescript.is_typescript(mutation.test):
        try:
            return typescript.failure_of(mutation.test, ROOT, folder)
        except typescript.BuildError as error:
            raise UnusableError(f"{mutation.name}: {error}") from None
    options = ["-x", "-q", "--tb=short", "--color=no", "--timeout", str(_SECONDS), "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *mutation.test]
    ended = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode == 0 and " passed" in ended.stdout:
        return None
    # The report of an exception group has no line that starts with "E", so the summary line is used.
    said = [line[1:].strip() for line in ended.stdout.splitlines() if line.startswith("E  ")]
    said += [line.partition(" - ")[2] for line in ended.stdout.splitlines() if line.startswith("FAILED ")]
    if ended.returncode != _FAILED or not said:
        raise UnusableError(f"{mutation.name}: pytest ended with {ended.returncode}:\n{ended.stdout[-3000:]}")
    failure = " ".join(said[:3]) if said[0].endswith("terminated with:") else said[0]  # grpc's errors have several
    return _OF_THIS_RUN.sub("", failure)


def table(outcomes: dict[str, str], rows: dict[str, str]) -> str:
    """Returns the table in Markdown: new rows for ``outcomes``, the present ``rows`` for the other mutations."""
    lines = ["| safeguard that is disabled (name) | in | test in `tests/` | failure of the test |", "|---|---|---|---|"]
    for name, mutation in load().items():
        outcome = outcomes.get(name)
        if outcome is None:
            lines += [rows[name]] if name in rows else []
            continue
        file, test = mutation.changes[0][0].rpartition("/")[2], mutation.test[0].removeprefix("tests/")
        seen = outcome.removeprefix(EXPECTED)
        seen = seen if len(seen) <= _LONGEST_FAILURE else f"{seen[:_LONGEST_FAILURE]}…"
        # Formatted as code, so that Markdown does not interpret the text, except for the bar.
        seen = seen.replace("`", "'").replace("|", "\\|")
        lines.append(f"| {mutation.taken_out} (`{name}`) | `{file}` | `{test}` | `{seen}` |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="mutations", description="Disables safeguards and checks that their tests fail."
    )
    parser.add_argument("names", nargs="*", help="names of mutations; default: all")
    known = load()
    names = parser.parse_args().names or list(known)
    if unknown := set(names) - set(known):
        parser.error(f"unknown mutations: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    outcomes: dict[str, str] = {}
    for name in names:
        try:
            failure = run(known[name])
        except UnusableError as error:
            outcome = f"error: {error}"
        else:
            outcome = "SURVIVED" if failure is None else f"{EXPECTED}{failure}"
        outcomes[name] = outcome
        print(f"{name}: {outcome}", flush=True)  # noqa: T201
    text = DOCUMENT.read_text()
    rows = {row[1]: row[0] for row in ROW.finditer(text)}
    DOCUMENT.write_text(_TABLE.sub(lambda _: table(outcomes, rows), text))
    return 0 if all(outcome.startswith(EXPECTED) for outcome in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
