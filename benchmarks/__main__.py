"""`python -m benchmarks`: runs the benchmark, prints its tables, and writes the figures and a plot to a folder."""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report
from benchmarks.errors import BenchError
from benchmarks.figures import Figure
from benchmarks.measurements import BASELINE, CONSTANT, RAW, ROWS, STREAM_100, STREAM_1000, Bench, Sweep
from benchmarks.plot import draw
from benchmarks.sizes import SIZES, Size
from loadgen import h2load
from loadgen.errors import LoadError
from userservice_server.config import ConfigError

_MIB = 1 << 20


def main() -> None:
    """Runs the benchmark. Exit codes: 0 measured, 2 cannot run."""
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
        "--output", type=Path, help="folder for performance.json and .svg (default: docs; none for size tiny)"
    )
    parser.add_argument("--port", type=int, default=0, help="port of the service; 0 selects a free port")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the servers are stopped
    try:
        h2load.program()
        size = _size(arguments.size)
        with tempfile.TemporaryDirectory(prefix="userservice-bench-") as folder:
            output = arguments.output or (Path("docs") if size.is_judged else Path(folder))
            _run(size, Path(folder), output, arguments.port)
    except (BenchError, ConfigError, LoadError) as error:
        sys.stderr.write(f"bench: error: {error}\n")
        sys.exit(2)


def _size(name: str) -> Size:
    if name not in SIZES:
        raise BenchError(f"BENCH must be one of {', '.join(SIZES)}")
    return SIZES[name]


def _run(size: Size, folder: Path, output: Path, port: int) -> None:
    size.check_memory()
    output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:6.1f} s  {text}\n")

    figures: dict[str, Figure] = {}
    sweep = Sweep()
    say(f"size {size.name}: filling stores")
    with Bench(size, folder, port) as bench:
        say("measuring")
        for measure in (bench.figures(), bench.deep_figures(sweep)):
            for figure in measure:
                figures[figure.name] = figure
                say(f"{figure.name}: " + ", ".join(f"{name} {figure.median(name):,.4g}" for name in figure.values))
        record_bytes = bench.payload / size.users
    by_size = sorted(sweep.users_per_second, key=lambda name: int(name.split()[1]))
    sweep.users_per_second = {name: sweep.users_per_second[name] for name in by_size}
    rows = tuple(row for row in ROWS if row.figure in figures and row.of in figures[row.figure].values)
    if len(rows) < len(ROWS):
        say("the TypeScript client is not measured: Node is missing, or the client is not built (npm run build)")
    for name in (BASELINE, CONSTANT):
        sweep.users_per_second[f"{name}, {size.users} users"] = {
            chunk_size: figures[figure].median(name) * _MIB / record_bytes
            for chunk_size, figure in ((100, STREAM_100), (1000, STREAM_1000))
        }
    limits = {RAW: figures[STREAM_1000].median(RAW) * _MIB / record_bytes}
    draw(sweep, limits, output / "performance.svg")
    report.write_json(report.as_json(figures, rows, sweep, size), output / "performance.json")
    tables = f"{report.table_of_figures(figures)}\n\n{report.table_of_rows(figures, rows, size)}\n"
    sys.stdout.write(tables)
    say(f"done; plot and figures: {output}")


if __name__ == "__main__":
    main()
