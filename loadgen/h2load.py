"""Runs h2load, a client in C that needs little CPU time compared with the server."""

import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil

from google.protobuf.message import Message

from loadgen.errors import LoadError

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_FINISHED = re.compile(r"^finished in ([0-9.]+)(us|ms|s|m|h),", re.MULTILINE)
_REQUESTS = re.compile(r"^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", re.MULTILINE)
_DATA = re.compile(r"^traffic: .*\((\d+)\) data$", re.MULTILINE)
_TIMES = re.compile(r"^time for request: +([0-9.]+)(us|ms|s) +([0-9.]+)(us|ms|s) +([0-9.]+)(us|ms|s)", re.MULTILINE)
_TIMEOUT_SECONDS = 300.0

FRAME_HEAD_BYTES = 5  # of each gRPC message: a flag and a length


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a load.

    Attributes:
        calls: number of completed calls.
        seconds: time from the first connection to the last response.
        data_bytes: size of all responses, with the headers of the gRPC messages.
        latency: mean duration of a call in seconds.
        cpu_seconds: CPU time of h2load itself.
    """

    calls: int
    seconds: float
    data_bytes: int
    latency: float
    cpu_seconds: float = 0.0


def program() -> str:
    """Returns the path of h2load."""
    found = shutil.which("h2load")
    if found is None:
        raise LoadError("h2load is not installed; install nghttp2-client (Debian, Ubuntu)")
    return found


def grpc_frame(message: Message) -> bytes:
    """Returns a request as gRPC sends it: uncompressed, with the length as a prefix."""
    body = message.SerializeToString()
    return b"\0" + len(body).to_bytes(4, "big") + body


def run(
    port: int,
    method: str,
    request: Message,
    *,
    calls: int,
    connections: int = 1,
    streams: int = 1,
    headers: Sequence[str] = (),
) -> Load:
    """Makes the same call ``calls`` times, with ``headers`` in the form ``name: value``.

    Raises:
        LoadError: h2load failed, or a call got no response. A response with an error status is not detected, because
            h2load does not read grpc-status; compare ``data_bytes`` with the size of correct responses.
    """
    with tempfile.NamedTemporaryFile() as body:
        body.write(grpc_frame(request))
        body.flush()
        options = ["-n", str(calls), "-c", str(connections), "-m", str(streams)]
        for header in headers:
            options += ["-H", header]
        command = _command(port, method, body.name, *options)
        before = _cpu_seconds_of_children()
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise LoadError(f"{method}: h2load took longer than {_TIMEOUT_SECONDS:g} s") from None
    return replace(_parsed(method, calls, done.stdout), cpu_seconds=_cpu_seconds_of_children() - before)


@contextmanager
def in_background(port: int, method: str, request: Message, *, seconds: float) -> Iterator[None]:
    """Repeats the call on one connection while the ``with`` block runs. The block must take less than ``seconds``.

    Raises:
        LoadError: no call got a response.
    """
    with tempfile.NamedTemporaryFile() as body:
        body.write(grpc_frame(request))
        body.flush()
        command = _command(port, method, body.name, "-D", str(ceil(seconds)), "-c", "1", "-m", "1")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                yield
                output, _ = process.communicate(timeout=seconds + _TIMEOUT_SECONDS)
            finally:
                process.kill()
    data = _DATA.search(output)
    if data is None or int(data[1]) == 0:
        raise LoadError(f"{method}: no answer to a load in the background")


def _command(port: int, method: str, body: str, *options: str) -> list[str]:
    return [
        *(program(), *options, "-t", "1", "-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers"),
        f"http://127.0.0.1:{port}/userservice.v1.{method}",
    ]


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _parsed(method: str, calls: int, output: str) -> Load:
    finished, requests, data = _FINISHED.search(output), _REQUESTS.search(output), _DATA.search(output)
    times = _TIMES.search(output)
    if not (finished and requests and data and times):
        raise LoadError(f"{method}: unexpected output of h2load: {output.strip()[-200:]!r}")
    if int(requests[1]) != calls:
        raise LoadError(f"{method}: only {requests[1]} of {calls} calls got a response")
    return Load(
        calls=calls,
        seconds=float(finished[1]) * _UNITS[finished[2]],
        data_bytes=int(data[1]),
        latency=float(times[5]) * _UNITS[times[6]],
    )
