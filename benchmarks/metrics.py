"""`python -m benchmarks.metrics`: what metrics cost: CPU time of calls and streams, and the time of a scrape.

Three services run on one store, one of them with metrics, and are measured in turns, in an order that changes with each
round. The third one, the control, has no metrics either: its ratio shows how exact the figures are. The goals are for
the CPU time of the serving process, which other programs on the machine affect less than the rate; both are printed.
Rounds are short, because the speed of a machine drifts: turns that follow each other within a second see the same
speed, so the median of their ratios varies little.
"""

import argparse
import http.client
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import programs, stores
from benchmarks.cpu import cpu_nanoseconds
from benchmarks.population import user_id
from loadgen import h2load
from userservice.v1.user_service_pb2 import GetUserRequest, ListUsersChunkedRequest

_MOST = {
    "GetUser": 1.03,
    "stream of chunks of 1000": 1.02,
    "stream of chunks of 100": 1.02,
}
_SERVICES: dict[str, tuple[str, ...]] = {"off": (), "on": ("--metrics-listen", "127.0.0.1:0"), "control": ()}
_MOST_SCRAPE_SECONDS = 0.05
_SCRAPES = 100


@dataclass(frozen=True, slots=True)
class _Cost:
    """What a call took.

    Attributes:
        cpu: CPU seconds of the server.
        seconds: elapsed seconds.
    """

    cpu: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Case:
    """A load.

    Attributes:
        method: the method that is called.
        request: the request.
        calls: number of calls.
        streams: concurrent calls on each of four connections; 1: one call at a time, on one connection.
    """

    method: str
    request: GetUserRequest | ListUsersChunkedRequest
    calls: int
    streams: int

    def run(self, program: programs.Program) -> _Cost:
        """Returns the cost of one call."""
        connections = 4 if self.streams > 1 else 1
        before = cpu_nanoseconds(program.pid)
        load = h2load.run(
            program.port,
            self.method,
            self.request,
            calls=self.calls,
            connections=connections,
            streams=self.streams,
        )
        return _Cost((cpu_nanoseconds(program.pid) - before) / 1e9 / self.calls, load.seconds / self.calls)


def _cases(calls: int) -> dict[str, _Case]:
    get, listing = "UserService/GetUser", "UserService/ListUsersChunked"
    return {
        "GetUser": _Case(get, GetUserRequest(user_id=user_id(1)), calls, 16),
        "stream of chunks of 1000": _Case(listing, ListUsersChunkedRequest(chunk_size=1000), max(1, calls // 100), 1),
        "stream of chunks of 100": _Case(listing, ListUsersChunkedRequest(chunk_size=100), max(1, calls // 200), 1),
    }


Costs = dict[str, _Cost]
"""The costs of one round, by service."""


def _measure(rounds: int, calls: int, users: int) -> tuple[dict[str, list[Costs]], list[float]]:
    """Returns the costs of each case in each round, and the seconds of each scrape."""
    found: dict[str, list[Costs]] = {}
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as made, ExitStack() as running:
        folder = Path(made)
        store = running.enter_context(stores.running(folder / "store"))
        store.fill(users)
        services = {
            name: running.enter_context(programs.service(name, store.url, folder, *options))
            for name, options in _SERVICES.items()
        }
        order = list(services)
        for number in range(rounds + 1):
            order.append(order.pop(0))
            for case_name, case in _cases(calls).items():
                costs = {name: case.run(services[name]) for name in order}
                if number:  # the first round warms up
                    found.setdefault(case_name, []).append(costs)
        return found, [_scrape(_metrics_port(folder / "on.log")) for _ in range(_SCRAPES)]


def _metrics_port(log: Path) -> int:
    [line] = [line for line in log.read_text(encoding="utf-8").splitlines() if '"serving metrics"' in line]
    return int(line.rpartition(":")[2].rstrip('"}'))


def _scrape(port: int) -> float:
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return time.perf_counter() - started


def _ratios(rounds: list[Costs], service: str, what: str) -> list[float]:
    """Returns the cost of a service, relative to the service without metrics, in each round."""
    return sorted(getattr(costs[service], what) / getattr(costs["off"], what) for costs in rounds)


def _report(found: dict[str, list[Costs]], scrapes: list[float]) -> bool:
    """Prints the figures; returns whether all are as they should be."""
    is_met = True
    for name, rounds in found.items():
        for what in ("cpu", "seconds"):
            off = statistics.median(getattr(costs["off"], what) for costs in rounds)
            ratios, control = _ratios(rounds, "on", what), _ratios(rounds, "control", what)
            ratio = statistics.median(ratios)
            goal = ""
            if what == "cpu":
                is_met = is_met and ratio <= _MOST[name]
                goal = f", wanted <= {_MOST[name]:g}{'' if ratio <= _MOST[name] else ', MISSED'}"
            sys.stdout.write(
                f"{name} ({what}): {off * 1e6:,.1f} us without metrics; with metrics x {ratio:.3f} "
                f"({ratios[0]:.3f} to {ratios[-1]:.3f}){goal}; control x {statistics.median(control):.3f} "
                f"({control[0]:.3f} to {control[-1]:.3f})\n"
            )
    slowest = max(scrapes)
    sys.stdout.write(
        f"scrape: median {statistics.median(scrapes) * 1e3:.1f} ms, slowest {slowest * 1e3:.1f} ms of {len(scrapes)} "
        f"(wanted: median <= {_MOST_SCRAPE_SECONDS * 1e3:g} ms)\n"
    )
    return is_met and statistics.median(scrapes) <= _MOST_SCRAPE_SECONDS


def main() -> int:
    """Returns the exit code: 0 if all figures are as they should be, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=__doc__)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--calls", type=int, default=200, help="unary calls in each round")
    parser.add_argument("--users", type=int, default=50_000)
    arguments = parser.parse_args()
    return 0 if _report(*_measure(arguments.rounds, arguments.calls, arguments.users)) else 1


if __name__ == "__main__":
    sys.exit(main())
