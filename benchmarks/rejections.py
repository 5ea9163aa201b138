"""Measures how much rejected calls delay the calls of a caller with a credential."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.population import user_id
from loadgen import h2load, open_loop
from loadgen.http2 import Request, header_block
from userservice.v1.user_service_pb2 import GetUserRequest

REJECTED_PER_SECOND = (300, 1000, 3000)
_CALLS_PER_SECOND = 100  # with a credential, by an open loop
_SECONDS = 4
_READY = "ready\n"
_GET = "UserService/GetUser"


def slowdowns(port: int, token: str, rounds: int) -> dict[int, tuple[float, float, float]]:
    """Measures 99th percentiles of GetUser with a credential, alone and beside rejected calls, in interleaved rounds.

    Returns:
        By the scheduled rejected calls per second: the median of the ratios, the median of the 99th percentiles in
        seconds, and the median of the rejected calls per second that were made.
    """
    found: dict[int, list[tuple[float, float, float]]] = {rate: [] for rate in REJECTED_PER_SECOND}
    for _ in range(rounds):
        alone = _p99(port, token)
        for rate, values in found.items():
            with _rejected(port, rate) as made:
                beside = _p99(port, token)
            values.append((beside / alone, beside, made[0]))
    return {rate: _medians(values) for rate, values in found.items()}


def _medians(values: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    ratios, seconds, rates = zip(*values, strict=True)
    return statistics.median(ratios), statistics.median(seconds), statistics.median(rates)


def _p99(port: int, token: str) -> float:
    headers = header_block(_GET, token=token)
    body = h2load.grpc_frame(GetUserRequest(user_id=user_id(1)))
    calls = _CALLS_PER_SECOND * _SECONDS
    latencies = open_loop.run(port, [Request(headers, body)] * calls, _CALLS_PER_SECOND)
    if latencies.errors:
        raise SystemExit(f"{latencies.errors} calls with a credential failed")
    return latencies.percentile(99)


@contextmanager
def _rejected(port: int, rate: int) -> Iterator[list[float]]:
    """Makes calls without a credential while the block runs; the list then contains the calls per second."""
    made: list[float] = []
    command = [sys.executable, "-m", "benchmarks.rejections", str(port), str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or process.stdout.readline() != _READY:
                raise SystemExit("the load of rejected calls did not start")
            yield made
            output, _ = process.communicate(timeout=300)
        finally:
            process.kill()
    made.append(float(output))


def _reject(port: int, rate: int) -> None:
    """Makes calls without a credential; prints when it starts, and then the calls per second."""
    calls = rate * (_SECONDS + 1)  # the load lasts longer than the block
    requests = [Request(header_block(_GET), h2load.grpc_frame(GetUserRequest(user_id=user_id(1))))] * calls
    sys.stdout.write(_READY)
    sys.stdout.flush()
    started = time.perf_counter()
    answers = open_loop.run(port, requests, rate)
    if answers.errors != calls:
        raise SystemExit("a call without a credential was accepted")
    sys.stdout.write(f"{calls / (time.perf_counter() - started)}")


if __name__ == "__main__":
    _reject(*map(int, sys.argv[1:]))
