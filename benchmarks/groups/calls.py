"""Measures single calls that read: GetUser by many callers and by one caller, and BatchGetUsers."""

from collections.abc import Iterator

from benchmarks import rows
from benchmarks.figures import Figure
from benchmarks.groups import Run
from benchmarks.population import user_id
from userservice.v1 import user_service_pb2 as pb

GET = "UserService/GetUser"
_BATCH_GET = "UserService/BatchGetUsers"
_BATCH = 100
_CONSTANTS = (rows.CONSTANT, rows.CONSTANT_DEFAULT_ENGINE, rows.CONSTANT_TUNED_ENGINE)
_GO = (rows.PLAIN, rows.ENCODED)
_MANY = (rows.SERVICE, rows.SERVICE_DEFAULT_ENGINE, rows.QUIET, rows.TWO, *_CONSTANTS, rows.BASELINE, *_GO)
_ONE = (rows.SERVICE, rows.SERVICE_DEFAULT_ENGINE, rows.CONSTANT, rows.CONSTANT_DEFAULT_ENGINE, *_GO)


def measure(run: Run) -> Iterator[Figure]:
    """Measures GetUser by 64 callers and by one caller, and BatchGetUsers."""
    request = pb.GetUserRequest(user_id=run.stage.probe)
    run.loads.check_alike(GET, request, *_MANY)
    many = {name: run.loads.repeated(name, GET, request) for name in run.stage.present(*_MANY)}
    yield from run.loads.figures(rows.GET, "calls/s", "call", many)
    one = {name: run.loads.repeated(name, GET, request, connections=1, streams=1) for name in run.stage.present(*_ONE)}
    yield from run.loads.figures(rows.ONE_GET, "calls/s", "call", one)
    yield from _batches(run)


def _batches(run: Run) -> Iterator[Figure]:
    first = run.stage.size.users // 2
    names = [user_id(number) for number in range(first, first + _BATCH)]
    request = pb.BatchGetUsersRequest(user_ids=names)
    present = run.stage.present(rows.SERVICE, *_GO)
    run.loads.check_alike(_BATCH_GET, request, *present)
    batches = {name: run.loads.repeated(name, _BATCH_GET, request, users=_BATCH) for name in present}
    yield from run.loads.figures(rows.BATCH, "users/s", "user", batches)
    kinds = {
        "GetUser": run.loads.repeated(rows.SERVICE, GET, pb.GetUserRequest(user_id=names[0])),
        "BatchGetUsers": run.loads.repeated(rows.SERVICE, _BATCH_GET, request, users=_BATCH),
    }
    rate, *_ = run.loads.figures(rows.BATCH_TO_GET, "users/s", "user", kinds)
    yield rate
