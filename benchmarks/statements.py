"""Makes the texts with a run's figures for README.md and docs/performance.md, by the names that the pages use."""

from collections.abc import Callable, Mapping
from functools import partial

from benchmarks import report as of_run
from benchmarks import rows
from benchmarks.report import Report

_NOT_MEASURED = "not measured"
_TIMES = " ×"  # noqa: RUF001 - in a table
_WORKLOADS = {
    "streams of all users in chunks of 1000": rows.STREAM_1000,
    "streams of all users in chunks of 100": rows.STREAM_100,
    "BatchGetUsers of 100": rows.BATCH,
    "GetUser, 64 concurrent calls": rows.GET,
    "GetUser, one caller": rows.ONE_GET,
    "AddUser, 64 concurrent calls": rows.ADD,
    "UpdateUser, 64 concurrent calls": rows.UPDATE,
    "80 % gets, 15 % updates, 5 % adds, 64 concurrent calls": rows.MIXED,
}


def value(figure: str, contestant: str, report: Report) -> str:
    """Returns the median of a contestant, with its unit."""
    median = of_run.median(report, figure, contestant)
    return _NOT_MEASURED if median is None else f"{of_run.number(median)} {report.figures[figure].unit}"


def times(figure: str, of: str, to: str, report: Report) -> str:
    """Returns a ratio of two contestants."""
    ratio = of_run.ratio(report, figure, of, to)
    return _NOT_MEASURED if ratio is None else of_run.number(ratio)


def table_of_readme(report: Report) -> str:
    """Returns the table of README: rates, and the ratio of the service to its peers."""
    lines = [
        "| workload | Python, hash per user | this service | relative to plain Go | relative to fastest Go |",
        "|---|---:|---:|---:|---:|",
    ]
    for label, figure in _WORKLOADS.items():
        cells = (
            value(figure, rows.BASELINE, report) if _has(report, figure, rows.BASELINE) else of_run.NONE,
            value(figure, rows.SERVICE, report),
            *(_relative(figure, peer, report) for peer in (rows.PLAIN, rows.ENCODED)),
        )
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines.append(_memory_line(report))
    return "\n".join(lines)


def comparison_with_go(report: Report) -> str:
    """Returns a list of the workloads in which each Go server, or the service, is faster."""
    sentences = []
    for peer, name in ((rows.PLAIN, "a plain Go server"), (rows.ENCODED, "the fastest Go server that we wrote")):
        ratios = {label: of_run.ratio(report, figure, rows.SERVICE, peer) for label, figure in _WORKLOADS.items()}
        measured = {label: ratio for label, ratio in ratios.items() if ratio is not None}
        if not measured:
            sentences.append(f"- **Compared with {name}:** {_NOT_MEASURED}.")
            continue
        slower = [f"{label} ({of_run.number(1 / ratio)}{_TIMES})" for label, ratio in measured.items() if ratio < 1]
        faster = [f"{label} ({of_run.number(ratio)}{_TIMES})" for label, ratio in measured.items() if ratio >= 1]
        sentences.append(f"- **Where {name} is faster:** {'; '.join(slower) or 'nowhere'}.")
        sentences.append(f"- **Where this service is faster than {name}:** {'; '.join(faster) or 'nowhere'}.")
    return "\n".join(sentences)


def _memory_line(report: Report) -> str:
    medians = [of_run.median(report, rows.STORE_MEMORY, name) for name in (rows.BASELINE, rows.SERVICE)]
    cells = [
        *(_NOT_MEASURED if median is None else f"{of_run.number(median)}{_TIMES}" for median in medians),
        *(_relative(rows.STORE_MEMORY, peer, report) for peer in (rows.PLAIN, rows.ENCODED)),
    ]
    return f"| memory of the store, relative to the encoded users | {' | '.join(cells)} |"


def _has(report: Report, figure: str, contestant: str) -> bool:
    return of_run.median(report, figure, contestant) is not None


def _relative(figure: str, peer: str, report: Report) -> str:
    ratio = of_run.ratio(report, figure, rows.SERVICE, peer)
    return _NOT_MEASURED if ratio is None else f"{of_run.number(ratio)}{_TIMES}"


# Of the run with BENCH=full.
FULL: Mapping[str, Callable[[Report], str]] = {
    "sizes": of_run.table_of_sizes,
    "rewrite": partial(of_run.table_of, rows.REWRITE),
    "workers": partial(of_run.table_of, rows.WORKERS),
    "full_notes": of_run.notes,
}

# Of the default run.
DEFAULT: Mapping[str, Callable[[Report], str]] = {
    "readme": table_of_readme,
    "go": comparison_with_go,
    "targets": of_run.table_of_targets,
    "peers": of_run.table_of_peers,
    "figures": of_run.table_of_figures,
    "notes": of_run.notes,
    "stream_to_raw": partial(times, rows.STREAM_1000, rows.SERVICE, rows.RAW),
    "get_to_constant": partial(times, rows.GET, rows.SERVICE, rows.CONSTANT),
    "get_to_plain": partial(times, rows.GET, rows.SERVICE, rows.PLAIN),
    "engine_gain": partial(times, rows.GET, rows.CONSTANT_TUNED_ENGINE, rows.CONSTANT_DEFAULT_ENGINE),
    "add_to_constant": partial(times, rows.ADD, rows.SERVICE, rows.CONSTANT),
    "update_to_constant": partial(times, rows.UPDATE, rows.SERVICE, rows.CONSTANT),
    "one_to_constant": partial(times, rows.ONE_GET, rows.SERVICE, rows.CONSTANT),
    **{
        f"cpu_get_{name}": partial(value, rows.server_cpu(rows.GET), contestant)
        for name, contestant in (
            ("service", rows.SERVICE),
            ("constant", rows.CONSTANT),
            ("plain", rows.PLAIN),
            ("encoded", rows.ENCODED),
        )
    },
}
