"""`python -m benchmarks`: runs the benchmark, prints its tables, and writes the figures and a plot to a folder."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import pages, report, room, rows
from benchmarks.errors import BenchError
from benchmarks.figures import Figure
from benchmarks.groups import Group, Run, calls, clients, latency, memory, scale, starting, streams, workers, writes
from benchmarks.groups.deep import Deep, Sweep
from benchmarks.loads import Loads
from benchmarks.missing import Missing
from benchmarks.plot import draw
from benchmarks.report import Report
from benchmarks.sizes import SIZES, Size
from benchmarks.stage import Stage
from loadgen.errors import LoadError
from userservice_server.config import ConfigError

_MIB = 1 << 20
_BASE_STORES = 3  # the stores of the service, of a hash for each user, and of encoded records


def main() -> None:
    """Runs the benchmark. Exit codes: 0 success, 2 the benchmark cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures the service and compares it with a baseline and with limits."
    )
    parser.add_argument(
        "--size",
        choices=SIZES,
        default=os.environ.get("BENCH") or "default",
        help="size of the benchmark (environment: BENCH)",
    )
    parser.add_argument(
        "--output", type=Path, help="folder for the figures and the plot (default: docs; none for size tiny)"
    )
    parser.add_argument("--port", type=int, default=0, help="port of the service; 0 selects a free port")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the servers are stopped
    try:
        size = _size(arguments.size)
        with tempfile.TemporaryDirectory(prefix="userservice-bench-") as folder:
            output = arguments.output or (pages.DOCS if size.is_judged else Path(folder))
            _run(size, Path(folder), output, arguments.port)
    except (BenchError, ConfigError, LoadError) as error:
        sys.stderr.write(f"bench: error: {error}\n")
        sys.exit(2)


def _size(name: str) -> Size:
    if name not in SIZES:
        raise BenchError(f"BENCH must be one of {', '.join(SIZES)}")
    return SIZES[name]


def _groups(size: Size, sweep: Sweep) -> Iterator[Group]:
    if not size.only_scale:
        yield from _comparing(sweep)
    if size.scale:
        yield Group("workers", workers.measure)
    if not size.only_scale:
        yield Group("writes", writes.measure, needs_h2load=False)
    if size.scale:
        yield Group("scale", scale.measure)


def _comparing(sweep: Sweep) -> Iterator[Group]:
    yield Group("memory of the store", memory.of_store, needs_h2load=False)
    yield Group("streams", streams.measure)
    yield Group("single calls that read", calls.measure)
    yield Group("clients", clients.measure, needs_h2load=False)
    yield Group("concurrent gets of one client", clients.shared_gets)
    yield Group("memory of the server", memory.of_server, needs_h2load=False)
    yield Group("start", starting.measure, needs_h2load=False)
    yield Group("latency", latency.measure, needs_h2load=False)
    yield Group("latency beside streams", latency.beside_streams)
    yield Group("deep stores", Deep(sweep).measure)


def _run(size: Size, folder: Path, output: Path, port: int) -> None:
    if reason := room.lack(_BASE_STORES * size.users, folder):
        raise BenchError(f"BENCH={size.name} cannot run: {reason}")
    output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:6.1f} s  {text}\n")

    figures: dict[str, Figure] = {}
    sweep, missing = Sweep(), Missing()
    say(f"size {size.name}: filling stores and building peers")
    with Stage(size, folder, port, missing) as stage:
        run = Run(stage, Loads(stage), figures)
        for group in _groups(size, sweep):
            if group.needs_h2load and shutil.which("h2load") is None:
                missing.add(group.name, "h2load is not installed; on Debian and Ubuntu it is in nghttp2-client")
                continue
            say(group.name)
            for figure in group.measure(run):
                figures[figure.name] = figure
                say(f"  {figure.name}: " + ", ".join(f"{name} {figure.median(name):,.4g}" for name in figure.values))
        record_bytes = stage.payload / size.users
    _write(Report(figures, missing, size.is_judged), sweep, size, record_bytes, output)
    say(f"done; plot and figures: {output}")


def _write(measured: Report, sweep: Sweep, size: Size, record_bytes: float, output: Path) -> None:
    document = output / pages.document(size.name).name
    report.write_json(report.as_json(measured, sweep, size), document)
    if rows.STREAM_1000 in measured.figures and sweep.first_chunk:
        _draw(measured, sweep, size, record_bytes, document.with_suffix(".svg"))
    if output == pages.DOCS:
        pages.write(pages.committed())
    tables = (report.table_of_peers, report.table_of_targets, report.table_of_figures, report.notes)
    sys.stdout.write("\n\n".join(table(measured) for table in tables) + "\n")


def _draw(measured: Report, sweep: Sweep, size: Size, record_bytes: float, path: Path) -> None:
    figures, users_in_a_mib = measured.figures, _MIB / record_bytes
    by_size = sorted(sweep.users_per_second, key=lambda name: int(name.split()[1]))
    rates = {name: sweep.users_per_second[name] for name in by_size}
    for name in (rows.BASELINE, rows.CONSTANT, rows.PLAIN, rows.ENCODED):
        if name in figures[rows.STREAM_1000].values:
            rates[f"{name}, {size.users} users"] = {
                chunk_size: figures[figure].median(name) * users_in_a_mib
                for chunk_size, figure in ((100, rows.STREAM_100), (1000, rows.STREAM_1000))
            }
    limits = {rows.RAW: figures[rows.STREAM_1000].median(rows.RAW) * users_in_a_mib}
    draw(Sweep(rates, sweep.first_chunk), limits, path)


if __name__ == "__main__":
    main()
