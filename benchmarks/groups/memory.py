"""Measures the memory of the stores, and the growth of the server's memory during many calls."""

from collections.abc import Iterator

from benchmarks import rows
from benchmarks.figures import Figure
from benchmarks.groups import Run
from benchmarks.loads import CONNECTIONS, STREAMS
from benchmarks.requests import Requests
from loadgen import http2

_MIB = 1 << 20
_CALLS_AT_ONCE = 50_000


def of_store(run: Run) -> Iterator[Figure]:
    """Returns the memory that users take in the stores."""
    memory = run.stage.store_memory
    stores = (rows.SERVICE, rows.BASELINE, rows.PLAIN, rows.ENCODED)
    yield Figure(rows.STORE_MEMORY, "x", {name: [memory[name]] for name in stores if name in memory})


def of_server(run: Run) -> Iterator[Figure]:
    """Measures the growth of the server's memory during many calls, after the calls of the earlier groups."""
    calls, service = run.stage.size.memory_calls, run.stage.service
    requests = Requests(run.stage.size.users).gets(min(calls, _CALLS_AT_ONCE))
    before = service.memory()
    for _ in range(calls // len(requests)):
        http2.call_each(service.port, requests, connections=CONNECTIONS, streams=STREAMS)
    grown = (service.memory() - before) / _MIB
    yield Figure(rows.UNARY_MEMORY, f"MiB in {calls} calls", {rows.SERVICE: [grown]})
