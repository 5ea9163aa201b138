"""`python -m benchmarks.topologies`: compares lists and calls on stores with 1 and 16 partitions, and on a cluster.

Four services run on stores with the same users: one server with 1 partition, one server with 16 partitions, a cluster
of three masters with 16 partitions, and another server with 1 partition (control), whose ratios show how exact the
figures are. They are measured in turns, in an order that changes with each round.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks import programs, stores
from benchmarks.clusters import cluster
from benchmarks.cpu import cpu_nanoseconds
from benchmarks.population import mappings, user_id
from loadgen import h2load
from userservice import SyncUserManager
from userservice.v1 import user_service_pb2 as pb
from userservice.v1.user_service_pb2_grpc import UserServiceStub

_ONE, _SIXTEEN, _CLUSTER, _CONTROL = "1 partition", "16 partitions", "cluster", "control"
_MASTERS = 3
_PARTS = 16
_STREAM = "UserService/ListUsersChunked"


@dataclass(frozen=True, slots=True)
class _Case:
    """A load.

    Attributes:
        run: makes the load on a service, and returns its figure.
        unit: the unit of the figure.
        goals: the bounds of the ratio to the store with 1 partition, by service.
        is_cost: whether a smaller figure is better.
    """

    run: Callable[[programs.Program], float]
    unit: str
    goals: dict[str, float]
    is_cost: bool = False


def _stream(program: programs.Program, request: pb.ListUsersChunkedRequest) -> tuple[int, float]:
    """Returns the bytes and seconds of a stream."""
    load = h2load.run(program.port, _STREAM, request, calls=1)
    return load.data_bytes, load.seconds


def _merged(program: programs.Program) -> float:
    size, seconds = _stream(program, pb.ListUsersChunkedRequest(chunk_size=1000))
    return size / seconds / 1e6


def _in_parts(program: programs.Program) -> float:
    """Reads all parts one after the other."""
    with grpc.insecure_channel(f"127.0.0.1:{program.port}") as channel:
        parts = UserServiceStub(channel).PlanUserScan(pb.PlanUserScanRequest(parts=_PARTS)).parts
    read = [
        _stream(
            program,
            pb.ListUsersChunkedRequest(
                chunk_size=1000, partition=part.partition, cursor=part.cursor, end_cursor=part.end_cursor
            ),
        )
        for part in parts
    ]
    return sum(size for size, _ in read) / sum(seconds for _, seconds in read) / 1e6


def _page(program: programs.Program) -> float:
    load = h2load.run(program.port, "UserService/ListUsers", pb.ListUsersRequest(limit=100), calls=500)
    return load.data_bytes / load.seconds / 1e6


def _get(calls: int) -> Callable[[programs.Program], float]:
    def run(program: programs.Program) -> float:
        before = cpu_nanoseconds(program.pid)
        request = pb.GetUserRequest(user_id=user_id(1))
        h2load.run(program.port, "UserService/GetUser", request, calls=calls, connections=4, streams=16)
        return (cpu_nanoseconds(program.pid) - before) / 1e3 / calls

    return run


def _cases(calls: int) -> dict[str, _Case]:
    return {
        "stream of chunks of 1000": _Case(_merged, "MB/s", {_SIXTEEN: 0.5}),
        "page of 100": _Case(_page, "MB/s", {_SIXTEEN: 0.6}),
        f"{_PARTS} parts, one after the other": _Case(_in_parts, "MB/s", {_SIXTEEN: 0.95}),
        "GetUser, CPU of the service": _Case(_get(calls), "us", {_CLUSTER: 1.1}, is_cost=True),
    }


@contextmanager
def _services(folder: Path, count: int) -> Iterator[dict[str, programs.Program]]:
    """Runs the services on stores with the same users."""
    with ExitStack() as running:
        urls = {name: running.enter_context(stores.running(folder / name)).url for name in (_ONE, _SIXTEEN, _CONTROL)}
        urls[_CLUSTER] = running.enter_context(cluster(folder, _MASTERS)).url
        services = {}
        for name, url in urls.items():
            options = ("--partitions", "16") if name == _SIXTEEN else ()
            services[name] = running.enter_context(programs.service(name, url, folder, *options))
            with SyncUserManager(f"127.0.0.1:{services[name].port}", timeout=60) as manager:
                manager.import_users(mappings(count))
        yield services


def _measure(rounds: int, calls: int, count: int) -> dict[str, list[dict[str, float]]]:
    """Returns the figures of each case in each round, by service."""
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as made, _services(Path(made), count) as services:
        order = list(services)
        for number in range(rounds + 1):
            order.append(order.pop(0))
            for case_name, case in _cases(calls).items():
                figures = {name: case.run(services[name]) for name in order}
                if number:  # the first round warms up
                    found.setdefault(case_name, []).append(figures)
    return found


def _report(cases: dict[str, _Case], found: dict[str, list[dict[str, float]]]) -> bool:
    """Prints the figures; returns whether all are as they should be."""
    is_met = True
    for case_name, case in cases.items():
        rounds = found[case_name]
        median = statistics.median(figures[_ONE] for figures in rounds)
        sys.stdout.write(f"{case_name}: {median:,.1f} {case.unit} with 1 partition\n")
        for name in (_SIXTEEN, _CLUSTER, _CONTROL):
            ratios = sorted(figures[name] / figures[_ONE] for figures in rounds)
            ratio, goal = statistics.median(ratios), ""
            if name in case.goals:
                is_reached = ratio <= case.goals[name] if case.is_cost else ratio >= case.goals[name]
                is_met = is_met and is_reached
                sign, result = "<=" if case.is_cost else ">=", "" if is_reached else ", MISSED"
                goal = f", wanted {sign} {case.goals[name]:g}{result}"
            sys.stdout.write(f"  {name}: x {ratio:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}){goal}\n")
    return is_met


def main() -> int:
    """Returns the exit code: 0 if all figures are as they should be, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.topologies", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=4000, help="calls of GetUser in each round")
    parser.add_argument("--users", type=int, default=100_000)
    arguments = parser.parse_args()
    found = _measure(arguments.rounds, arguments.calls, arguments.users)
    return 0 if _report(_cases(arguments.calls), found) else 1


if __name__ == "__main__":
    sys.exit(main())
