"""Measures the clients as readers of all users, with concurrent callers, and their import."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median

from benchmarks import rows, typescript
from benchmarks.errors import BenchError
from benchmarks.figures import Figure, measured
from benchmarks.groups import Run
from benchmarks.groups.calls import GET
from benchmarks.loads import Loads
from benchmarks.stage import Stage
from userservice import UserManager
from userservice.v1 import user_service_pb2 as pb

_IMPORTS_A_ROUND = 5
_IMPORTS = {
    # The imports that every client of these protos needs.
    "grpc and protobuf": "import grpc; from google.protobuf import field_mask_pb2, struct_pb2, timestamp_pb2",
    "userservice": "import userservice",
}
_SHARED = {64: rows.SHARED_64, 256: rows.SHARED_256}  # by the number of concurrent callers


def measure(run: Run) -> Iterator[Figure]:
    """Measures readers of all users and the import."""
    yield _readers(run.stage)
    yield _imports(run.stage)


def shared_gets(run: Run) -> Iterator[Figure]:
    """Measures GetUser by concurrent callers in one process, with and without shared reads; Go peers with h2load."""
    stage = run.stage
    can_share = "share_reads" in inspect.signature(UserManager).parameters
    contestants: dict[str, Callable[[], float]] = {}
    for callers, name in _SHARED.items():
        contestants[f"Python, {callers} callers"] = partial(_called, stage, callers, "single")
        if can_share:
            contestants[name] = partial(_called, stage, callers, "shared")
        else:
            stage.missing.add(name, "not available: this client has no parameter share_reads")
    for name in stage.present(rows.PLAIN, rows.ENCODED):
        contestants[name] = _rate(run.loads, name, pb.GetUserRequest(user_id=stage.probe))
    yield measured(rows.SHARED, "calls/s", stage.size.rounds, contestants)


def _rate(loads: Loads, name: str, request: pb.GetUserRequest) -> Callable[[], float]:
    load = loads.repeated(name, GET, request)
    return lambda: load()["rate"]


def _called(stage: Stage, callers: int, kind: str) -> float:
    size = stage.size
    arguments = (kind, stage.service.port, callers, size.users, size.load_seconds)
    return float(_output("-m", "benchmarks.callers", *map(str, arguments)))


def _readers(stage: Stage) -> Figure:
    kinds = {"user_id only": "ids", "all metadata": "metadata", "each a dict": "dicts"}
    contestants: dict[str, Callable[[], float]] = {
        f"Python, {name}": partial(_read, stage, kind) for name, kind in kinds.items()
    }
    if typescript.is_there():
        contestants[rows.TYPESCRIPT] = lambda: typescript.read(stage.service.port, stage.size.users).users_per_second
    else:
        stage.missing.add(rows.TYPESCRIPT, "Node is not installed, or the client is not built (npm run build)")
    return measured(rows.CLIENTS, "users/s", stage.size.rounds, contestants)


def _read(stage: Stage, kind: str) -> float:
    count, seconds = _output("-m", "benchmarks.readers", kind, str(stage.service.port)).split()
    if int(count) != stage.size.users:
        raise BenchError(f"the Python client read {count} of {stage.size.users} users")
    return stage.size.users / float(seconds)


def _imports(stage: Stage) -> Figure:
    # The program is compiled once, as in an installation, even if the environment disables compiled files.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(stage.folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    contestants = {name: partial(_import_ms, text, environment) for name, text in _IMPORTS.items()}
    return measured(rows.IMPORT, "ms", stage.size.rounds, contestants)


def _import_ms(statement: str, environment: Mapping[str, str]) -> float:
    script = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return median(float(_output("-c", script, environment=environment)) for _ in range(_IMPORTS_A_ROUND)) * 1000


def _output(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise BenchError(f"{' '.join(arguments[:3])} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout
