"""The files that describe the project agree with each other."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NPM = ROOT / "client" / "typescript"


def test_both_packages_have_one_version_and_one_license() -> None:
    package = json.loads((NPM / "package.json").read_text())
    lock = json.loads((NPM / "package-lock.json").read_text())
    assert package["version"] == lock["version"] == PROJECT["version"]
    assert package["license"] == PROJECT["license"] == "Apache-2.0"
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
    # npm packs only files of the package's own folder.
    assert (NPM / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_changelog_has_a_section_for_unreleased_changes() -> None:
    assert re.search(r"^## Unreleased$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_every_decision_record_is_in_the_index_and_says_its_status() -> None:
    folder = ROOT / "docs" / "adr"
    records = sorted(folder.glob("0*.md"))
    linked = re.findall(r"\]\((0.*?\.md)\)", (folder / "README.md").read_text())
    assert linked == [record.name for record in records]
    assert all(re.search(r"^Status: ", record.read_text(), re.MULTILINE) for record in records)


def test_links_between_documents_lead_to_files() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), NPM / "README.md", ROOT / "tests" / "README.md"]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert broken == []


def test_documents_and_sections_that_the_server_names_exist() -> None:
    """Messages of the server name a document and sometimes a section of it."""
    texts = [path.read_text() for path in (ROOT / "server").rglob("*.py")]
    named = [found for text in texts for found in re.findall(r"(docs/[\w-]+\.md)(?:, '([^']+(?:'s [^']+)?)')?", text)]
    assert any(section for _, section in named)
    for document, section in named:
        assert (ROOT / document).exists(), document
        if section:
            assert f"\n## {section}\n" in (ROOT / document).read_text(), f"{document}: {section}"
