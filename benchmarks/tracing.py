"""`python -m benchmarks.tracing`: what tracing costs a call, in CPU time of the server.

Four services run on one store and are measured in turns, in an order that changes with each round: one without tracing
(off), one with tracing (on), one with tracing that records only traces of callers (ratio 0), and another one without
tracing (control), whose ratio shows how exact the figures are. A collector on this machine accepts the spans.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from benchmarks import programs, stores
from benchmarks.cpu import cpu_nanoseconds
from benchmarks.population import user_id
from loadgen import h2load
from userservice.v1.user_service_pb2 import GetUserRequest

_MOST_UNSAMPLED = 1.05
_RATIO_0 = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
_TRACE = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
# The headers of the calls, the service that is compared with the one without tracing, and the largest ratio.
_CASES: dict[str, tuple[tuple[str, ...], str, float | None]] = {
    "caller's trace is not sampled": ((f"{_TRACE}00",), "on", _MOST_UNSAMPLED),
    "no trace, and the sampler rejects the call": ((), "ratio 0", _MOST_UNSAMPLED),
    "caller's trace is sampled": ((f"{_TRACE}01",), "on", None),
}


class _Collector(BaseHTTPRequestHandler):
    """Accepts spans and discards them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Reads a request, and sends an empty response, which is a valid message of OTLP."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@contextmanager
def _collector() -> Iterator[dict[str, str]]:
    """Runs a collector; yields the variables that make a service send its spans to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}"}
    finally:
        server.shutdown()
        server.server_close()


def _cost(program: programs.Program, calls: int, headers: tuple[str, ...]) -> float:
    """Returns the CPU seconds of the server for one GetUser, with 4 connections of 16 concurrent calls."""
    before = cpu_nanoseconds(program.pid)
    request = GetUserRequest(user_id=user_id(1))
    h2load.run(program.port, "UserService/GetUser", request, calls=calls, connections=4, streams=16, headers=headers)
    return (cpu_nanoseconds(program.pid) - before) / 1e9 / calls


Costs = dict[str, float]
"""The CPU seconds of a call in one round, by service."""


def _measure(rounds: int, calls: int) -> dict[str, list[Costs]]:
    """Returns the costs of each case in each round."""
    found: dict[str, list[Costs]] = {}
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as made, ExitStack() as running:
        folder = Path(made)
        store = running.enter_context(stores.running(folder / "store"))
        store.fill(1000)
        on = running.enter_context(_collector())
        variables: dict[str, dict[str, str]] = {"off": {}, "on": on, "ratio 0": {**on, **_RATIO_0}, "control": {}}
        services = {
            name: running.enter_context(programs.service(name, store.url, folder, variables=settings))
            for name, settings in variables.items()
        }
        order = list(services)
        for number in range(rounds + 1):
            order.append(order.pop(0))
            for case, (headers, compared, _) in _CASES.items():
                costs = {
                    name: _cost(services[name], calls, headers)
                    for name in order
                    if name in ("off", "control", compared)
                }
                if number:  # the first round warms up
                    found.setdefault(case, []).append(costs)
    return found


def _report(found: dict[str, list[Costs]]) -> bool:
    """Prints the figures; returns whether all are as they should be."""
    is_met = True
    for case, rounds in found.items():
        _, compared, most = _CASES[case]
        off = statistics.median(costs["off"] for costs in rounds)
        ratios, control = (sorted(costs[name] / costs["off"] for costs in rounds) for name in (compared, "control"))
        ratio = statistics.median(ratios)
        goal = ""
        if most is not None:
            is_met = is_met and ratio <= most
            goal = f", wanted <= {most:g}{'' if ratio <= most else ', MISSED'}"
        sys.stdout.write(
            f"{case}: {off * 1e6:,.1f} us of CPU without tracing; with tracing x {ratio:.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f}){goal}; control x {statistics.median(control):.3f} "
            f"({control[0]:.3f} to {control[-1]:.3f})\n"
        )
    return is_met


def main() -> int:
    """Returns the exit code: 0 if all figures are as they should be, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=4000, help="calls of each service in each case of a round")
    arguments = parser.parse_args()
    return 0 if _report(_measure(arguments.rounds, arguments.calls)) else 1


if __name__ == "__main__":
    sys.exit(main())
