"""Measures latency under an open-loop load, in which calls start on a schedule (loadgen/open_loop.py)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext

from benchmarks import rows
from benchmarks.answers import STREAM
from benchmarks.errors import BenchError
from benchmarks.figures import Figure, Part, measured_parts
from benchmarks.groups import Run
from loadgen import h2load, http2, open_loop
from userservice.v1 import user_service_pb2 as pb

PERCENTS = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}
_DELAY, _SHARE, _RATE = "delay", "share", "rate"
_LOWEST_RATE = 100.0
_BESIDE_STREAM_SHARE = 0.1  # of the service's rate, for the calls during a stream
_CONTESTANTS = (rows.SERVICE, rows.CONSTANT, rows.PLAIN, rows.ENCODED)
_STREAM_MARGIN_SECONDS = 1.0


def measure(run: Run) -> Iterator[Figure]:
    """Measures latency at half of each contestant's own rate, and at half of the service's rate."""
    rates = {name: _half_rate(run, name) for name in run.stage.present(*_CONTESTANTS)}
    own = {name: _at(run, name, rate) for name, rate in rates.items()}
    yield from measured_parts(parts(rows.HALF_LOAD), run.stage.size.rounds, own)
    same = {name: _at(run, name, rates[rows.SERVICE]) for name in rates}
    yield from measured_parts(parts(rows.SAME_LOAD), run.stage.size.rounds, same)


def beside_streams(run: Run) -> Iterator[Figure]:
    """Measures GetUser alone, and while another client repeatedly reads all users."""
    rate = max(_LOWEST_RATE, 2 * _half_rate(run, rows.SERVICE) * _BESIDE_STREAM_SHARE)
    names = run.stage.present(rows.SERVICE, rows.PLAIN, rows.ENCODED)
    contestants: dict[str, Callable[[], Mapping[str, float]]] = {}
    for name in names:
        contestants[f"{name}, {rows.WITHOUT_STREAM}"] = _at(run, name, rate)
        contestants[f"{name}, {rows.WITH_STREAM}"] = _at(run, name, rate, is_streaming=True)
    yield from measured_parts(parts(rows.BESIDE_STREAM), run.stage.size.rounds, contestants)


def parts(name: str) -> dict[str, Part]:
    """Returns the figures for which ``sample`` returns values."""
    made = {percent: Part(rows.percentile(name, percent), "ms") for percent in PERCENTS}
    made[_RATE] = Part(rows.load_rate(name), "calls/s")
    made[_DELAY] = Part(rows.send_delay(name), "ms")
    made[_SHARE] = Part(rows.generator_cpu(name), "cores")
    return made


def _half_rate(run: Run, contestant: str) -> float:
    """Returns half of the rate of the closed loop. Measures the rate if it is not known, because h2load is missing."""
    if rows.GET in run.figures:
        return max(_LOWEST_RATE, run.figures[rows.GET].median(contestant) / 2)
    requests = run.loads.requests.gets(int(5000 * run.stage.size.load_seconds))
    answers = http2.call_each(run.stage.programs[contestant].port, requests, connections=4, streams=16)
    return max(_LOWEST_RATE, answers.calls / answers.seconds / 2)


def _at(run: Run, contestant: str, rate: float, *, is_streaming: bool = False) -> Callable[[], Mapping[str, float]]:
    port, seconds = run.stage.programs[contestant].port, run.stage.size.latency_seconds
    requests = run.loads.requests.gets(int(rate * seconds))

    def load() -> Mapping[str, float]:
        stream = (
            h2load.in_background(
                port, STREAM, pb.ListUsersChunkedRequest(chunk_size=1000), seconds=seconds + _STREAM_MARGIN_SECONDS
            )
            if is_streaming
            else nullcontext()
        )
        with stream:
            return sample(open_loop.run(port, requests, rate), rate)

    return load


def sample(latencies: open_loop.Latencies, rate: float) -> Mapping[str, float]:
    """Returns the values of one round: latencies and delays in ms, the CPU share and the rate."""
    if latencies.errors:
        raise BenchError(f"{latencies.errors} of {len(latencies.seconds)} calls failed at {rate:.0f} calls/s")
    values = {name: latencies.percentile(percent) * 1000 for name, percent in PERCENTS.items()}
    values[_DELAY] = open_loop.percentile(latencies.delays, PERCENTS["p99"]) * 1000
    values[_SHARE] = latencies.cpu_share
    values[_RATE] = rate
    return values
