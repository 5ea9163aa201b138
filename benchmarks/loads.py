"""Generates closed-loop loads on servers; measures the rate, and the CPU time of server, store and load generator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from benchmarks import cpu, rows
from benchmarks.answers import STREAM, ExpectedBytes, user
from benchmarks.errors import BenchError
from benchmarks.figures import Figure, Part, measured_parts
from benchmarks.requests import Requests
from benchmarks.stage import Stage
from benchmarks.stores import Store
from loadgen import h2load, http2
from loadgen.http2 import Request

CONNECTIONS, STREAMS = 4, 16  # connections, and concurrent calls on each connection, for single calls
_RATE, _SERVER, _STORE, _GENERATOR = "rate", "server", "store", "generator"
_MIB = 1 << 20
_FEWEST_CALLS = 100

Sample = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Work:
    """The result of a load: its rate, its number of calls or users, its duration, and the CPU time of the generator."""

    rate: float
    units: int
    seconds: float
    generator_seconds: float


class Loads:
    """Makes the loads. Each takes about ``load_seconds``: the rate of a round sets the number of calls of the next."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._expected = ExpectedBytes()
        self.requests = Requests(stage.size.users)

    def figures(self, name: str, unit: str, work: str, contestants: Mapping[str, Callable[[], Sample]]) -> list[Figure]:
        """Measures the rate, and the CPU time for each call or user (``work``)."""
        parts = {
            _RATE: Part(name, unit),
            _SERVER: Part(rows.server_cpu(name), f"µs per {work}"),
            _STORE: Part(rows.store_cpu(name), f"µs per {work}"),
            _GENERATOR: Part(rows.generator_cpu(name), "cores"),
        }
        return measured_parts(parts, self._stage.size.rounds, contestants)

    def check_alike(self, method: str, request: Message, *contestants: str) -> None:
        """Raises BenchError unless the responses of these contestants have about the same size."""
        ports = {contestant: self._stage.programs[contestant].port for contestant in self._stage.present(*contestants)}
        self._expected.check_alike(ports, method, request)

    def repeated(
        self,
        contestant: str,
        method: str,
        request: Message,
        *,
        connections: int = CONNECTIONS,
        streams: int = STREAMS,
        users: int = 1,
    ) -> Callable[[], Sample]:
        """Returns a load by h2load that repeats a unary call; ``users`` is the number of users in the response."""
        port = self._stage.programs[contestant].port
        calls = 4 * connections * streams

        def load() -> Work:
            nonlocal calls
            done = h2load.run(port, method, request, calls=calls, connections=connections, streams=streams)
            self._expected.check(port, method, request, done)
            rate = done.calls / done.seconds
            calls = max(calls, int(rate * self._stage.size.load_seconds))
            return Work(rate * users, done.calls * users, done.seconds, done.cpu_seconds)

        return lambda: self._sample(contestant, load)

    def streamed(self, contestant: str, request: Message, calls: int, connections: int = 1) -> Callable[[], Sample]:
        """Returns a load by h2load of streams of all users, with its rate in MiB/s."""
        port = self._stage.programs[contestant].port

        def load() -> Work:
            done = h2load.run(port, STREAM, request, calls=calls, connections=connections)
            self._expected.check(port, STREAM, request, done)
            users = calls * self._stage.size.users
            return Work(done.data_bytes / _MIB / done.seconds, users, done.seconds, done.cpu_seconds)

        return lambda: self._sample(contestant, load)

    def adds(self, contestant: str) -> Callable[[], Sample]:
        """Returns a load of AddUser, and checks that the store then contains the users."""
        return self._distinct(contestant, lambda calls: (self.requests.adds(calls), calls), is_update=False)

    def updates(self, contestant: str) -> Callable[[], Sample]:
        """Returns a load of UpdateUser, and checks that the last user is then changed."""
        return self._distinct(contestant, lambda calls: (self.requests.updates(calls), 0), is_update=True)

    def mixed(self, contestant: str) -> Callable[[], Sample]:
        """Returns a load of GetUser, UpdateUser and AddUser, with the checks of the other loads."""
        return self._distinct(contestant, self.requests.mixed, is_update=True)

    def _distinct(
        self, contestant: str, make: Callable[[int], tuple[Sequence[Request], int]], *, is_update: bool
    ) -> Callable[[], Sample]:
        program, store = self._stage.programs[contestant], self._stage.stores.get(contestant)
        calls = max(_FEWEST_CALLS, int(3000 * self._stage.size.load_seconds))

        def load() -> Sample:
            nonlocal calls
            requests, added = make(calls)
            before = store.count() if store else 0
            sample = self._sample(contestant, lambda: _all(program.port, requests))
            if store and store.count() - before != added:
                raise BenchError(f"{contestant}: {store.count() - before} users were added instead of {added}")
            if store and is_update:
                self._check_update(contestant)
            calls = max(_FEWEST_CALLS, int(sample[_RATE] * self._stage.size.load_seconds))
            return sample

        return load

    def _check_update(self, contestant: str) -> None:
        wanted = self.requests.last_update()
        found = user(self._stage.programs[contestant].port, wanted.user_id)
        if (found.first_name, found.metadata["logins"]) != (wanted.first_name, wanted.metadata["logins"]):
            raise BenchError(f"{contestant}: an update is not in the store")

    def _sample(self, contestant: str, load: Callable[[], Work]) -> Sample:
        program, store = self._stage.programs[contestant], self._stage.stores.get(contestant)
        server_before, store_before = program.cpu_seconds(), _store_seconds(store)
        work = load()
        sample = {
            _RATE: work.rate,
            _SERVER: (program.cpu_seconds() - server_before) / work.units * 1e6,
            _GENERATOR: work.generator_seconds / work.seconds,
        }
        if store:
            sample[_STORE] = (_store_seconds(store) - store_before) / work.units * 1e6
        return sample


def _all(port: int, requests: Sequence[Request]) -> Work:
    answers = http2.call_each(port, requests, connections=CONNECTIONS, streams=STREAMS)
    if answers.errors:
        raise BenchError(f"{answers.errors} of {answers.calls} calls failed")
    return Work(answers.calls / answers.seconds, answers.calls, answers.seconds, answers.cpu_seconds)


def _store_seconds(store: Store | None) -> float:
    """Returns the CPU time of a store. It includes a process that rewrites the append-only file only while it runs."""
    try:
        return cpu.cpu_seconds(store.pid) if store else 0.0
    except cpu.EndedError:
        raise BenchError("the store has ended") from None
