"""`python -m benchmarks.pages [--check]`: writes the figures in docs/ into the pages that state them.

The figures are in performance.json, and those of BENCH=full or BENCH=scale in performance-full.json.

A page contains a figure between `<!-- bench:NAME -->` and `<!-- /bench -->`, within a line or as lines of their own.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import statements
from benchmarks.errors import BenchError
from benchmarks.report import Report, from_json

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", DOCS / "performance.md")
_PLACE = re.compile(r"(?P<head><!-- bench:(?P<name>[a-z0-9_]+) -->)(?P<text>.*?)(?P<tail><!-- /bench -->)", re.DOTALL)
_NOTHING = Report({}, {})


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs whose figures the pages contain."""

    default: Report
    full: Report = _NOTHING


def document(size: str) -> Path:
    """Returns the path of the document with the figures of a size's run."""
    return DOCS / ("performance-full.json" if size in {"full", "scale"} else "performance.json")


def committed() -> Runs:
    """Returns the runs whose figures are in docs/."""
    return Runs(*(_read(document(size)) for size in ("default", "full")))


def _read(path: Path) -> Report:
    return from_json(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else _NOTHING


def main() -> None:
    """Exit codes: 0 written or up to date, 1 out of date, 2 a page names an unknown figure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pages", description="Writes the figures into the pages."
    )
    parser.add_argument("--check", action="store_true", help="only say whether the pages are up to date")
    arguments = parser.parse_args()
    try:
        stale = [page for page in PAGES if is_stale(page, committed())]
        if not arguments.check:
            write(committed())
    except BenchError as error:
        sys.stderr.write(f"bench: error: {error}\n")
        sys.exit(2)
    if arguments.check and stale:
        sys.stderr.write(f"out of date: {', '.join(page.name for page in stale)}; run python -m benchmarks.pages\n")
        sys.exit(1)


def write(runs: Runs) -> None:
    """Writes the figures into the pages."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), runs), encoding="utf-8")


def is_stale(page: Path, runs: Runs) -> bool:
    """Returns whether a page contains other figures than the runs."""
    text = page.read_text(encoding="utf-8")
    return filled(text, runs) != text


def filled(text: str, runs: Runs) -> str:
    """Returns the text with the figures of the runs in all places.

    Raises:
        BenchError: there is no figure of this name.
    """

    def figure(place: re.Match[str]) -> str:
        content = _statement(place["name"], runs)
        is_block = "\n" in place["text"]
        return (
            f"{place['head']}\n{content}\n{place['tail']}" if is_block else f"{place['head']}{content}{place['tail']}"
        )

    return _PLACE.sub(figure, text)


def _statement(name: str, runs: Runs) -> str:
    if name in statements.DEFAULT:
        return statements.DEFAULT[name](runs.default)
    if name in statements.FULL:
        return statements.FULL[name](runs.full)
    raise BenchError(f"there is no figure {name} for a page")


if __name__ == "__main__":
    main()
