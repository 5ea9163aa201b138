"""Shared parts of the fault tests: one seed for the whole run, and the report at its end."""

import os
import random
import secrets
from collections import defaultdict

import pytest
from harness.sizing import FULL

SEED = int(os.environ.get("FAULTS_SEED") or secrets.randbelow(1 << 32))
FOLDER = "tests/faults/"


@pytest.fixture
def seed() -> int:
    """The seed is the same for every test, so that FAULTS_SEED also repeats a single test."""
    return SEED


@pytest.fixture
def dice(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a seeded stream of faults, no secret


def pytest_report_header() -> str:
    return f"FAULTS_SEED={SEED} FAULTS={'full' if FULL else 'short'}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the seed; after a full run, also the figures of the tests and the duration of each file."""
    reports = [
        report
        for found in terminalreporter.stats.values()
        for report in found
        if isinstance(report, pytest.TestReport) and report.nodeid.startswith(FOLDER)
    ]
    if not reports:
        return
    if FULL:
        tell_figures(terminalreporter, reports)
    terminalreporter.write_line(f"FAULTS_SEED={SEED} repeats what the fault tests drew")


def tell_figures(terminal: pytest.TerminalReporter, reports: list[pytest.TestReport]) -> None:
    terminal.section("figures")
    for report in reports:
        for line in report.capstdout.splitlines() if report.when == "call" else ():
            terminal.write_line(f"{report.nodeid.removeprefix(FOLDER)}: {line}")
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        seconds[report.nodeid.partition("::")[0]] += report.duration
    terminal.section("seconds")
    for path, taken in sorted(seconds.items()):
        terminal.write_line(f"{taken:6.0f} {path.removeprefix(FOLDER)}")
    terminal.write_line(f"{sum(seconds.values()):6.0f} in all")
