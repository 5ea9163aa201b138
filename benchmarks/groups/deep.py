"""Measures the effect of the number of users: a large store compared with a small store, and the data of the plot."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from benchmarks import programs, room, rows, typescript
from benchmarks.answers import STREAM, ExpectedBytes, first_bytes
from benchmarks.figures import Figure, measured
from benchmarks.groups import Run
from benchmarks.programs import Program
from benchmarks.stage import Stage
from benchmarks.stores import USERS_KEY, Store
from loadgen import h2load, http2
from userservice.v1 import user_service_pb2 as pb
from userservice_server.wire.records import record_id

_LIST = "UserService/ListUsers"
PAGE = 100
_FIRST_CHUNKS = 40  # streams per value of the time to the first chunk
_STALL_SECONDS = 4.0
_MIB = 1 << 20
_LARGE = 1_000_000  # users: from here on, one stream is enough for a rate


@dataclass
class Sweep:
    """The data of the plot.

    Attributes:
        users_per_second: the rate by contestant (with the size of its store) and chunk size.
        first_chunk: the seconds to the first chunk, by store size and chunk size.
    """

    users_per_second: dict[str, dict[int, float]] = field(default_factory=dict)
    first_chunk: dict[int, dict[int, float]] = field(default_factory=dict)


class Deep:
    """Measures the effect of the number of users; adds the data of the plot to ``sweep``."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def measure(self, run: Run) -> Iterator[Figure]:
        """Measures the first chunk, a page, a stalled reader and the data of the plot."""
        stage, size = run.stage, run.stage.size
        if reason := room.lack(size.few + size.deep, stage.folder):
            stage.missing.add("figures of a deep store", reason)
            return
        with ExitStack() as stack:
            few_store, deep_store = stage.filled("few", size.few, stack), stage.filled("deep", size.deep, stack)
            few = stack.enter_context(programs.service("few", few_store.url, stage.folder))
            deep = stack.enter_context(programs.service("deep", deep_store.url, stage.folder))
            contestants = {"small store": lambda: first_chunk(few, 100), "deep store": lambda: first_chunk(deep, 100)}
            yield measured(rows.FIRST_CHUNK, "ms", size.rounds, contestants)
            yield from _deep_only(stage, deep, deep_store)
            self._sweep_store(stage, few, size.few)
            self._sweep_store(stage, stage.service, size.users)
            self._sweep_store(stage, deep, size.deep)
        self._sweep_further(stage)

    def _sweep_further(self, stage: Stage) -> None:
        """Measures smaller and larger stores, one after the other, for the plot only."""
        for count in stage.size.sweep:
            if reason := room.lack(count, stage.folder):
                stage.missing.add(f"{count} users in the plot", reason)
                continue
            with ExitStack() as stack:
                store = stage.filled(f"sweep{count}", count, stack)
                program = stack.enter_context(programs.service(f"sweep{count}", store.url, stage.folder))
                self._sweep_store(stage, program, count)

    def _sweep_store(self, stage: Stage, program: Program, count: int) -> None:
        rates = self._sweep.users_per_second.setdefault(f"service, {count} users", {})
        first_chunks = self._sweep.first_chunk.setdefault(count, {})
        for chunk_size in stage.size.chunk_sizes:
            rates[chunk_size] = users_per_second(program, chunk_size, count)
            first_chunks[chunk_size] = first_chunk(program, chunk_size) / 1000


def _deep_only(stage: Stage, deep: Program, store: Store) -> Iterator[Figure]:
    rounds, calls = stage.size.rounds, max(20, int(500 * stage.size.load_seconds))
    cursors = {"at the start": 0, "at the end": cursor_of_last_page(store)}
    pages: dict[str, Callable[[], float]] = {
        name: partial(page_ms, deep, cursor, calls) for name, cursor in cursors.items()
    }
    yield measured(rows.PAGE, "ms", rounds, pages)
    yield _stall(stage, deep)
    if typescript.is_there():
        grown = typescript.read(deep.port, stage.size.deep).grown_mib
        yield Figure(rows.TYPESCRIPT_MEMORY, f"MiB, {stage.size.deep} users", {rows.TYPESCRIPT: [grown]})


def _stall(stage: Stage, program: Program) -> Figure:
    before = highest = program.memory()
    connection = http2.stalled(program.port, STREAM, pb.ListUsersChunkedRequest(chunk_size=1000))
    until = time.monotonic() + _STALL_SECONDS
    while time.monotonic() < until:
        highest = max(highest, program.memory())
        time.sleep(0.02)
    connection.close()
    return Figure(rows.STALL, f"MiB, {stage.size.deep} users", {rows.SERVICE: [(highest - before) / _MIB]})


def cursor_of_last_page(store: Store) -> int:
    """Returns the cursor of the last full page."""
    ((last_but_a_page,),) = [store.redis.zrange(USERS_KEY, -PAGE - 1, -PAGE - 1)]
    return record_id(last_but_a_page)


def page_ms(program: Program, cursor: int, calls: int) -> float:
    """Returns the mean duration of a call of ListUsers in milliseconds."""
    request = pb.ListUsersRequest(limit=PAGE, cursor=cursor)
    load = h2load.run(program.port, _LIST, request, calls=calls)
    ExpectedBytes().check(program.port, _LIST, request, load)
    return load.latency * 1000


def first_chunk(program: Program, chunk_size: int) -> float:
    """Returns the milliseconds from the request to the end of the first chunk, on an open connection."""
    request = pb.ListUsersChunkedRequest(chunk_size=chunk_size)
    needed = first_bytes(program.port, request)
    connection = http2.Connection(program.port)
    times = [http2.first_bytes(connection, STREAM, request, needed=needed) for _ in range(_FIRST_CHUNKS)]
    connection.close()
    return median(times) * 1000


def users_per_second(program: Program, chunk_size: int, count: int) -> float:
    """Returns the rate of one stream."""
    request = pb.ListUsersChunkedRequest(chunk_size=chunk_size)
    loads = [h2load.run(program.port, STREAM, request, calls=1) for _ in range(3 if count < _LARGE else 1)]
    return count / median(load.seconds for load in loads)
