"""Measures the effect of the number of users, up to ten million (BENCH=full)."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from threading import Timer

from benchmarks import programs, room, rows, stores
from benchmarks.errors import BenchError
from benchmarks.figures import Figure, Part, measured, measured_parts
from benchmarks.groups import Run, deep, latency
from benchmarks.loads import CONNECTIONS, STREAMS
from benchmarks.programs import Program
from benchmarks.requests import Requests
from benchmarks.stage import Stage
from benchmarks.stores import Store
from loadgen import http2, open_loop
from loadgen.http2 import Request

_GET, _ADD, _PAGE, _FIRST, _STREAM = "get", "add", "page", "first", "stream"
_PARTS = {
    _GET: Part(rows.SCALE_GET, "calls/s"),
    _ADD: Part(rows.SCALE_ADD, "calls/s"),
    _PAGE: Part(rows.SCALE_PAGE, "ms"),
    _FIRST: Part(rows.SCALE_FIRST, "ms"),
    _STREAM: Part(rows.SCALE_STREAM, "users/s"),
}
_CALLS_PER_SECOND = 5000  # the approximate rate of a load
_REWRITE_RATE_SHARE = 0.1  # as a share of the rate of GetUser
_PAGES = 200
_REWRITE_STARTS_AFTER_SECONDS = 0.5


class Scaled:
    """A store with a number of users, and a service that uses this store."""

    def __init__(self, count: int, stage: Stage, stack: ExitStack) -> None:
        self.count = count
        self.store: Store = stage.filled(f"scale{count}", count, stack)
        self.program: Program = stack.enter_context(programs.service(f"scale{count}", self.store.url, stage.folder))
        self.requests = Requests(count)
        self._calls = int(_CALLS_PER_SECOND * stage.size.load_seconds)

    def round(self) -> Mapping[str, float]:
        """Measures each figure once. Adds are measured last, because they enlarge the store."""
        cursor = deep.cursor_of_last_page(self.store)
        return {
            _PAGE: deep.page_ms(self.program, cursor, _PAGES),
            _FIRST: deep.first_chunk(self.program, 100),
            _STREAM: deep.users_per_second(self.program, 1000, self.count),
            _GET: self.rate(self.requests.gets(self._calls)),
            _ADD: self.rate(self.requests.adds(self._calls)),
        }

    def rate(self, requests: list[Request]) -> float:
        """Returns the calls per second of a closed loop."""
        answers = http2.call_each(self.program.port, requests, connections=CONNECTIONS, streams=STREAMS)
        if answers.errors:
            raise BenchError(f"{answers.errors} of {answers.calls} calls failed with {self.count} users")
        return answers.calls / answers.seconds


def measure(run: Run) -> Iterator[Figure]:
    """Measures stores of all sizes in interleaved rounds, and then further figures of the largest store."""
    stage = run.stage
    with ExitStack() as stack:
        scaled = []
        for count in stage.size.scale:
            if reason := room.lack(count, stage.folder):
                stage.missing.add(f"scale, {count} users", reason)
                break
            scaled.append(Scaled(count, stage, stack))
        if not scaled:
            return
        yield from measured_parts(_PARTS, stage.size.rounds, {_name(one.count): one.round for one in scaled})
        largest = scaled[-1]
        yield from _rewriting(stage, largest)
    yield _loading(stage, largest.count)


def _name(count: int) -> str:
    return f"{count:,} users".replace(",", " ")


def _rewriting(stage: Stage, scaled: Scaled) -> list[Figure]:
    """Measures mixed calls at a tenth of the GetUser rate without, during and after a rewrite of the append-only file.

    The rewrite starts during the measurement, because its start (a fork) delays calls. The end delays calls too, when
    the file system deletes the old file.
    """
    rate = _REWRITE_RATE_SHARE * scaled.rate(scaled.requests.gets(_CALLS_PER_SECOND))
    calls = int(rate * stage.size.latency_seconds)

    def load() -> Mapping[str, float]:
        requests, _ = scaled.requests.mixed(calls)
        return latency.sample(open_loop.run(scaled.program.port, requests, rate), rate)

    def without() -> Mapping[str, float]:
        os.sync()
        return load()

    def during() -> Mapping[str, float]:
        start = Timer(_REWRITE_STARTS_AFTER_SECONDS, scaled.store.rewrite)
        start.start()
        sample = load()
        start.join()
        scaled.store.settle()
        return sample

    def after() -> Mapping[str, float]:
        scaled.store.rewrite()
        scaled.store.settle()
        return load()

    contestants: dict[str, Callable[[], Mapping[str, float]]] = {
        f"{_name(scaled.count)}, {rows.NOT_REWRITING}": without,
        f"{_name(scaled.count)}, {rows.REWRITING}": during,
        f"{_name(scaled.count)}, {rows.REWRITTEN}": after,
    }
    return measured_parts(latency.parts(rows.REWRITE), stage.size.rounds, contestants)


def _loading(stage: Stage, count: int) -> Figure:
    """Measures the start of a store with the files of the largest store, and of a service, to the first response."""

    def load() -> float:
        started = time.monotonic()
        with stores.running(stage.folder / f"scale{count}") as store:
            with programs.service("loaded", store.url, stage.folder) as program:
                if http2.call_each(program.port, Requests(count).gets(1), connections=1, streams=1).errors:
                    raise BenchError("the first call failed")
            return time.monotonic() - started

    return measured(rows.LOAD_TIME, "s", 1, {_name(count): load})
