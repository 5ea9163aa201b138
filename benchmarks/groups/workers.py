"""Measures the effect of `--workers` on rate and CPU time per call, with processes pinned to cores (BENCH=full)."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import programs, rows
from benchmarks.figures import Figure
from benchmarks.groups import Run
from benchmarks.groups.calls import GET
from benchmarks.loads import Sample
from userservice.v1 import user_service_pb2 as pb

_CORES = 2


def measure(run: Run) -> Iterator[Figure]:
    """Measures GetUser with the workers on one core, and store and load on the other core; and without pinning."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < _CORES:
        run.stage.missing.add(rows.WORKERS, f"needs {_CORES} cores, there is {len(allowed)}")
        return
    first, second = {allowed[0]}, {allowed[1]}
    both = first | second
    with ExitStack() as stack:
        contestants = {
            f"{workers} worker{'s' * (workers > 1)}, {where}": _pinned(run, workers, server, others, stack)
            for workers in (1, 2)
            for where, server, others in (("one core of their own", first, second), ("both cores shared", both, both))
        }
        yield from run.loads.figures(rows.WORKERS, "calls/s", "call", contestants)


def _pinned(run: Run, workers: int, server: set[int], others: set[int], stack: ExitStack) -> Callable[[], Sample]:
    """Returns a load on a service whose processes run on the cores ``server``; store and load run on ``others``."""
    stage, name = run.stage, f"{workers} on {len(server)}"
    store = stage.stores[rows.SERVICE]
    with _affinity(server):
        program = programs.service(
            f"workers-{workers}-{len(server)}", store.url, stage.folder, "--workers", str(workers)
        )
        stage.programs[name] = stack.enter_context(program)
    stage.stores[name] = store
    repeated = run.loads.repeated(name, GET, pb.GetUserRequest(user_id=stage.probe))

    def load() -> Sample:
        _move(store.pid, others)
        with _affinity(others):
            return repeated()

    return load


@contextmanager
def _affinity(cores: set[int]) -> Iterator[None]:
    """Pins this process, and the processes that it starts, to the cores, as ``taskset`` does."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _move(pid: int, cores: set[int]) -> None:
    """Pins all threads of a running process to the cores, as ``taskset -ap`` does."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)
