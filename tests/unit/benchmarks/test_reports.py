"""The report: its tables, what it says is missing, and the pages that state its figures."""

import json
from pathlib import Path

import pytest

from benchmarks import pages, report, rows, statements
from benchmarks.errors import BenchError
from benchmarks.figures import Figure
from benchmarks.groups.deep import Sweep
from benchmarks.pages import Runs
from benchmarks.report import Report
from benchmarks.sizes import SIZES

MEASURED = Report(
    {
        figure.name: figure
        for figure in (
            Figure(rows.GET, "calls/s", {rows.SERVICE: [10, 12], rows.PLAIN: [40, 48], rows.CONSTANT: [20, 24]}),
            Figure(rows.generator_cpu(rows.GET), "cores", {rows.SERVICE: [0.2, 0.2], rows.PLAIN: [0.97, 0.99]}),
            Figure(rows.STREAM_1000, "MiB/s", {rows.SERVICE: [800, 900], rows.PLAIN: [40, 45]}),
            Figure(rows.percentile(rows.HALF_LOAD, "p99"), "ms", {rows.SERVICE: [2], rows.PLAIN: [2]}),
            Figure(rows.send_delay(rows.HALF_LOAD), "ms", {rows.SERVICE: [1.5], rows.PLAIN: [0.1]}),
        )
    },
    {rows.ENCODED: "Go is not installed"},
)


def line_with(text: str, table: str) -> str:
    [line] = [line for line in table.splitlines() if text in line]
    return line


def test_peers_are_beside_the_ratio_of_the_service() -> None:
    line = line_with(rows.GET, report.table_of_peers(MEASURED))
    assert line == f"| {rows.GET}, calls/s | 11 | 22 (0.5) | – | 44 (0.25) | – |"  # noqa: RUF001


def test_targets_that_were_not_measured_are_not_judged() -> None:
    table = report.table_of_targets(MEASURED)
    assert line_with(f"{rows.GET}: service to plain Go ", table).endswith("| 0.25 | ≥ 0.5 | **no** |")
    assert line_with(f"{rows.STREAM_1000}: service to encoded Go ", table).endswith("≥ 2.5 | not measured |")


def test_notes_name_what_is_missing_and_what_the_load_generator_limits() -> None:
    lines = report.notes(MEASURED).splitlines()
    assert lines[0] == "- Not measured: encoded Go: Go is not installed."
    assert any(line.startswith(f"- {rows.GET}, plain Go: the load generator used 0.98 cores") for line in lines)
    assert any(
        line.startswith(f"- {rows.HALF_LOAD}, service: 1 % of the calls were sent at least 1.5 ms") for line in lines
    )
    assert len(lines) == 3


def test_the_comparison_says_where_go_is_faster() -> None:
    text = statements.comparison_with_go(MEASURED)
    assert "**Where a plain Go server is faster:** GetUser, 64 concurrent calls (4 ×)." in text  # noqa: RUF001
    assert "faster than a plain Go server:** streams of all users in chunks of 1000 (20 ×)." in text  # noqa: RUF001
    assert "**Compared with the fastest Go server that we wrote:** not measured." in text


def test_a_report_survives_its_document(tmp_path: Path) -> None:
    path = tmp_path / "performance.json"
    report.write_json(report.as_json(MEASURED, Sweep(), SIZES["default"]), path)
    assert report.from_json(json.loads(path.read_text())) == MEASURED


@pytest.mark.parametrize("name", [*statements.DEFAULT, *statements.FULL])
def test_every_statement_can_be_made_of_a_run_that_measured_nothing(name: str) -> None:
    nothing = Report({}, {})
    assert "<!-- bench" not in pages.filled(f"<!-- bench:{name} --><!-- /bench -->", Runs(nothing))[1:]


def test_figures_are_written_within_lines_and_as_lines() -> None:
    text = "GetUser: <!-- bench:get_to_plain -->1<!-- /bench -->.\n<!-- bench:notes -->\nold\n<!-- /bench -->\n"
    filled = pages.filled(text, Runs(MEASURED))
    assert filled.startswith("GetUser: <!-- bench:get_to_plain -->0.25<!-- /bench -->.\n")
    assert f"<!-- bench:notes -->\n{report.notes(MEASURED)}\n<!-- /bench -->\n" in filled
    assert pages.filled(filled, Runs(MEASURED)) == filled


def test_a_page_that_names_an_unknown_figure_is_an_error() -> None:
    with pytest.raises(BenchError, match="no figure nothing_like_it"):
        pages.filled("<!-- bench:nothing_like_it --><!-- /bench -->", Runs(MEASURED))


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_the_pages_state_the_figures_of_the_committed_run(page: Path) -> None:
    assert "<!-- bench:" in page.read_text()
    assert not pages.is_stale(page, pages.committed()), "run python -m benchmarks.pages"
