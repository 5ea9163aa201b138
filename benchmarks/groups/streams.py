"""Measures streams of all users."""

from collections.abc import Iterator

from benchmarks import rows
from benchmarks.answers import STREAM
from benchmarks.figures import Figure
from benchmarks.groups import Run
from benchmarks.raw_read import RawRead
from userservice.v1 import user_service_pb2 as pb

_MIB = 1 << 20
_FAST_STREAMS = 4  # streams per value; a slow contestant takes as long for a single stream
_SLOW = (rows.BASELINE, rows.PLAIN)
_CONTESTANTS = (rows.SERVICE, rows.QUIET, rows.TWO, rows.CONSTANT, *_SLOW, rows.ENCODED)


def measure(run: Run) -> Iterator[Figure]:
    """Measures streams in two chunk sizes."""
    for name, chunk_size in ((rows.STREAM_1000, 1000), (rows.STREAM_100, 100)):
        yield from _streams(run, name, chunk_size)


def _streams(run: Run, name: str, chunk_size: int) -> list[Figure]:
    request = pb.ListUsersChunkedRequest(chunk_size=chunk_size)
    raw, payload = RawRead(run.stage.stores[rows.SERVICE]), run.stage.payload / _MIB
    run.loads.check_alike(STREAM, request, *_CONTESTANTS)
    contestants = {
        contestant: run.loads.streamed(
            contestant,
            request,
            calls=1 if contestant in _SLOW else _FAST_STREAMS,
            connections=2 if contestant == rows.TWO else 1,
        )
        for contestant in run.stage.present(*_CONTESTANTS)
    }
    contestants[rows.RAW] = lambda: {"rate": payload / raw.seconds()}
    return run.loads.figures(name, "MiB/s", "user", contestants)
