"""Disables each safeguard in a copy of the code, one after the other, and checks that its test fails.

`python -m mutations` in tests/, or `make mutations`; with names, only those. The *.toml files beside this one define
the mutations, one file for each part of the code. Exit code 1: a test passed without its safeguard, or could not run.
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
)  # differs each time, or says nothing
_LONGEST_FAILURE = 140
_SECONDS = 60
_SHORT = {"FAULTS", "FAULTS_SEED", "FAULTS_SOAK_SECONDS"}  # unset: the sizes of an ordinary run, and any seed
EXPECTED = "failed, as it should: "
_FAILED = 1  # pytest's exit code for tests that failed; others mean that none was run


class UnusableError(Exception):
    """A mutation cannot be made or shown; the text says why."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One defence, how it is taken out, and the test that is to notice.

    Attributes:
        name: what it is called by.
        taken_out: the defence, in words.
        changes: file, the text to be found there exactly once, and what is put in its place.
        test: arguments of pytest; for a test of the TypeScript client its file, and arguments of Node's test runner.
        tries: how often the test may be run until it fails, where chance draws what happens.
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

    def apply(self, folder: Path) -> None:
        for file, find, put in self.changes:
            path = folder / file
            text = path.read_text()
            if (count := text.count(find)) != 1:
                raise UnusableError(f"{self.name}: {file} has this {count} times, not once: {find!r}")
            changed = text.replace(find, put)
            if path.suffix == ".py":
                compile(changed, file, "exec")  # else every test would fail, and nothing would be shown
            path.write_text(changed)


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
    """One in which the copy is imported instead of the code, by pytest and by the services that it starts."""
    kept = {name: value for name, value in os.environ.items() if name not in _SHORT}
    made = {**kept, "COLUMNS": "240", "PYTHONPATH": os.pathsep.join(str(folder / part) for part in COPIED[:2])}
    look = "import userservice, userservice_server as server; print(userservice.__file__, server.__file__)"
    shown = subprocess.run([sys.executable, "-c", look], env=made, cwd=ROOT, capture_output=True, text=True, check=True)
    if not all(Path(file).is_relative_to(folder) for file in shown.stdout.split()):
        raise UnusableError(f"the copy in {folder} is not what is imported: {shown.stdout}")
    return made


def run(mutation: Mutation) -> str | None:
    """Returns how the test failed, or None if it never did."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as made:
        folder = Path(made).resolve()
        copy(folder)
        mutation.apply(folder)
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
    # A group of exceptions has no line that starts so, only that of the summary.
    said = [line[1:].strip() for line in ended.stdout.splitlines() if line.startswith("E  ")]
    said += [line.partition(" - ")[2] for line in ended.stdout.splitlines() if line.startswith("FAILED ")]
    if ended.returncode != _FAILED or not said:
        raise UnusableError(f"{mutation.name}: pytest ended with {ended.returncode}:\n{ended.stdout[-3000:]}")
    failure = " ".join(said[:3]) if said[0].endswith("terminated with:") else said[0]  # grpc's errors have several
    return _OF_THIS_RUN.sub("", failure)


def table(outcomes: dict[str, str], rows: dict[str, str]) -> str:
    """Returns the table in Markdown: new rows for ``outcomes``, the present ``rows`` for the other mutations."""
    lines = ["| defence removed (name) | in | test in `tests/` | what was seen |", "|---|---|---|---|"]
    for name, mutation in load().items():
        outcome = outcomes.get(name)
        if outcome is None:
            lines += [rows[name]] if name in rows else []
            continue
        file, test = mutation.changes[0][0].rpartition("/")[2], mutation.test[0].removeprefix("tests/")
        seen = outcome.removeprefix(EXPECTED)
        seen = seen if len(seen) <= _LONGEST_FAILURE else f"{seen[:_LONGEST_FAILURE]}…"
        # As code, so that nothing in it is taken for Markdown; the bar still is.
        seen = seen.replace("`", "'").replace("|", "\\|")
        lines.append(f"| {mutation.taken_out} (`{name}`) | `{file}` | `{test}` | `{seen}` |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="mutations", description="Takes defences out and sees their tests fail.")
    parser.add_argument("names", nargs="*", help="those to run; all of them without")
    known = load()
    names = parser.parse_args().names or list(known)
    if unknown := set(names) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
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
