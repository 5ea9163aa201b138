"""Each entry of tests/mutations can still be made: its text is there, once, and its test exists."""

from pathlib import Path

import pytest
from mutations.__main__ import COPIED, DOCUMENT, ROOT, ROW, Mutation, copy, load


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    copy(tmp_path)
    return tmp_path


@pytest.mark.parametrize("mutation", load().values(), ids=lambda mutation: mutation.name)
def test_a_mutation_can_be_made(mutation: Mutation, copied: Path) -> None:
    mutation.apply(copied)
    assert all(file.startswith(COPIED) for file, _, _ in mutation.changes)
    assert (ROOT / mutation.test[0]).is_file()


def test_the_document_has_each_of_them_and_no_other() -> None:
    assert [row[1] for row in ROW.finditer(DOCUMENT.read_text())] == list(load())
