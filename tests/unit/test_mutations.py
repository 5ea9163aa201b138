"""Each mutation can be applied: its text occurs exactly once in its file. The document lists all mutations."""

import pytest
from mutations.__main__ import COPIED, DOCUMENT, ROOT, ROW, Mutation, load


@pytest.mark.parametrize("mutation", load().values(), ids=lambda mutation: mutation.name)
def test_a_mutation_can_be_applied(mutation: Mutation) -> None:
    assert mutation.changed(ROOT)
    assert all(file.startswith(COPIED) for file, _, _ in mutation.changes)
    assert (ROOT / mutation.test[0]).is_file()


def test_the_document_lists_exactly_these_mutations() -> None:
    rows, mutations = list(ROW.finditer(DOCUMENT.read_text())), load()
    assert [row[1] for row in rows] == list(mutations)
    outdated = [row[1] for row in rows if not row[0].startswith(f"| {mutations[row[1]].taken_out} (")]
    assert outdated == [], "run make mutations ARGS=NAME"
