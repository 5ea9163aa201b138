"""Measures single calls that write, and a mix of reads and writes; after reads, because writes change the stores."""

from collections.abc import Iterator

from benchmarks import rows
from benchmarks.figures import Figure
from benchmarks.groups import Run

_GO = (rows.PLAIN, rows.ENCODED)


def measure(run: Run) -> Iterator[Figure]:
    """Measures UpdateUser, the mix and AddUser."""
    stage, loads = run.stage, run.loads
    updating = stage.present(rows.SERVICE, rows.CONSTANT, *_GO)  # the baseline has no UpdateUser
    yield from loads.figures(rows.UPDATE, "calls/s", "call", {name: loads.updates(name) for name in updating})
    yield from loads.figures(rows.MIXED, "calls/s", "call", {name: loads.mixed(name) for name in updating})
    adding = stage.present(rows.SERVICE, rows.CONSTANT, rows.BASELINE, *_GO)
    yield from loads.figures(rows.ADD, "calls/s", "call", {name: loads.adds(name) for name in adding})
