"""Measures the time from the start of a server's process to its first response."""

import time
from collections.abc import Callable, Iterator

from benchmarks import go_peers, programs, rows
from benchmarks.errors import BenchError
from benchmarks.figures import Figure, measured
from benchmarks.groups import Run
from benchmarks.programs import Program
from benchmarks.stage import Stage
from loadgen import http2


def measure(run: Run) -> Iterator[Figure]:
    """Measures servers whose stores are running and filled."""
    stage = run.stage
    servers = {name: server for name, server in _servers(stage).items() if name in stage.programs}
    request = run.loads.requests.gets(1)

    def start(make: Callable[[], Program]) -> float:
        started = time.perf_counter()
        with make() as program:
            if http2.call_each(program.port, request, connections=1, streams=1).errors:
                raise BenchError("the first call of a new server failed")
            return (time.perf_counter() - started) * 1000

    contestants = {name: lambda make=make: start(make) for name, make in servers.items()}
    yield measured(rows.START, "ms", stage.size.rounds, contestants)


def _servers(stage: Stage) -> dict[str, Callable[[], Program]]:
    folder, built = stage.folder, go_peers.FOLDER / "bin"
    return {
        rows.SERVICE: lambda: programs.service("started", stage.stores[rows.SERVICE].url, folder),
        rows.BASELINE: lambda: programs.baseline(stage.stores[rows.BASELINE].url, folder),
        rows.PLAIN: lambda: programs.go_peer("started", built / "plain", stage.stores[rows.PLAIN].path, folder),
        rows.ENCODED: lambda: programs.go_peer("started", built / "encoded", stage.stores[rows.ENCODED].path, folder),
    }
