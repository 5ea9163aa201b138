"""Draws the panels of the Grafana dashboard from the data of a Prometheus, for machines without Grafana."""

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "dashboards" / "userservice.json"
_SECONDS = 10  # limit for a query
_UNITS = {"percentunit": (100, "%"), "bytes": (1 / 2**20, "MiB"), "s": (1000, "ms"), "reqps": (1, "calls/s")}
_COLUMNS = 4
_LEGEND_LINES = 6


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of the dashboard, with its queries and the legends of their series."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a panel."""

    legend: str
    times: list[float]
    values: list[float]


def panels(interval: str = "20s", instance: str = ".*") -> list[Panel]:
    """Returns the panels of the dashboard, with values in the place of Grafana's variables."""
    rows = json.loads(DASHBOARD.read_text())["panels"]
    nested: Iterable[dict[str, Any]] = (panel for row in rows for panel in row.get("panels") or [row])
    return [
        Panel(
            panel["title"],
            panel["fieldConfig"]["defaults"]["unit"],
            tuple(
                (
                    target["expr"].replace("$__rate_interval", interval).replace("$instance", instance),
                    target["legendFormat"],
                )
                for target in panel["targets"]
            ),
        )
        for panel in nested
        if panel["type"] != "row"
    ]


def query_range(prometheus: str, expr: str, legend: str, start: float, end: float) -> list[Series]:
    """Returns the series of a query between two times, in seconds since 1970."""
    step = max(1, round((end - start) / 120))
    query = urllib.parse.urlencode({"query": expr, "start": start, "end": end, "step": step})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{query}", timeout=_SECONDS) as response:  # noqa: S310
        result = json.load(response)["data"]["result"]
    return [
        Series(
            _filled(legend, one["metric"]),
            [time - start for time, _ in one["values"]],
            [float(value) for _, value in one["values"]],
        )
        for one in result
    ]


def series(prometheus: str, panel: Panel, start: float, end: float) -> list[Series]:
    """Returns the series of a panel that have a value."""
    found = [one for expr, legend in panel.queries for one in query_range(prometheus, expr, legend, start, end)]
    return [one for one in found if not all(math.isnan(value) for value in one.values)]


def _filled(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), legend)


def draw(prometheus: str, start: float, end: float, picture: Path) -> list[str]:
    """Draws all panels into a PNG or SVG file; returns the titles of the panels without data."""
    import matplotlib as mpl  # noqa: PLC0415 - slow, and installed for pictures only

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of the output

    shown, empty = panels(), []
    rows = math.ceil(len(shown) / _COLUMNS)
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(5 * _COLUMNS, 2.8 * rows), layout="constrained")
    for axis in list(axes.flat)[len(shown) :]:
        axis.set_axis_off()
    for axis, panel in zip(axes.flat, shown, strict=False):
        factor, unit = _UNITS.get(panel.unit, (1, ""))
        lines = series(prometheus, panel, start, end)
        for line in lines:
            axis.plot(line.times, [value * factor for value in line.values], label=line.legend, linewidth=1)
        axis.set_title(f"{panel.title} ({unit})" if unit else panel.title, fontsize=10)
        axis.set_xlim(0, end - start)
        axis.tick_params(labelsize=7)
        if not lines:
            empty.append(panel.title)
            axis.text(0.5, 0.5, "no data", transform=axis.transAxes, ha="center")
        elif any(line.legend for line in lines):
            legend = axis.legend(fontsize=6, loc="upper left", ncols=1 + len(lines) // _LEGEND_LINES)
            legend.set_in_layout(False)
            axis.set_ylim(top=1.4 * axis.get_ylim()[1])  # room for the legend
        axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])  # otherwise the frame hides a line at 0
    figure.supxlabel("seconds", fontsize=8)
    figure.savefig(picture, dpi=60)
    plt.close(figure)
    return empty
