"""Tests that documents and mutations name exist."""

import re
from pathlib import Path

import pytest
from mutations.__main__ import Mutation, load

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
DOCUMENTS = ("docs/reliability.md", "tests/README.md")
_NAMED = re.compile(r"(?P<file>…|[\w/]*\btest_\w+\.py)(?:::(?P<test>test_\w+))?")


def named_in(document: str) -> list[tuple[str, str]]:
    """Returns the tests that a document names, as file and function; `…` means the file that was named before it."""
    named: list[tuple[str, str]] = []
    for match in _NAMED.finditer((ROOT / document).read_text()):
        file = named[-1][0] if match["file"] == "…" and named else match["file"]
        if match["file"] != "…" or match["test"]:
            named.append((file, match["test"] or ""))
    return named


def missing(file: str, test: str) -> bool:
    """Returns whether no file of tests/ has this path at its end, and this test."""
    paths = [path for path in TESTS.rglob(Path(file).name) if path.as_posix().endswith(f"/{file}")]
    return not any(not test or f"def {test}(" in path.read_text() for path in paths)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_named_in_a_document_exists(document: str) -> None:
    named = named_in(document)
    assert any(test for _, test in named)
    assert [f"{file}::{test}" for file, test in named if missing(file, test)] == []


@pytest.mark.parametrize("mutation", load().values(), ids=lambda mutation: mutation.name)
def test_every_mutation_selects_an_existing_test(mutation: Mutation) -> None:
    """Names of tests and ids of parameters are texts of the file, except short ids such as `valkey` in a fixture."""
    file, *options = mutation.test
    source = (ROOT / file).read_text()
    for option in options:
        if option.startswith("--test-name-pattern="):
            assert re.search(option.partition("=")[2], source)
    if "-k" in options:
        words = re.findall(r"\w+", options[options.index("-k") + 1])
        assert [word for word in words if "_" in word and word not in source] == []
        assert any("_" in word or word in source for word in words)
