"""The measurements, and their targets."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Self
from uuid import UUID

import grpc
from google.protobuf.message import Message

from benchmarks import programs, stores, typescript
from benchmarks.baseline import layout
from benchmarks.errors import BenchError
from benchmarks.figures import Figure, Row, measured
from benchmarks.population import user_id, users
from benchmarks.programs import Program
from benchmarks.raw_read import RawRead
from benchmarks.sizes import Size
from benchmarks.stores import USERS_KEY, Store
from loadgen import h2load, http2
from userservice.v1 import user_service_pb2 as pb
from userservice_server.wire.records import record_id

_STREAM = "UserService/ListUsersChunked"
_CONNECTIONS, _STREAMS = 4, 16  # of loads of single calls
_BATCH = 100
_PAGE = 100
_FIRST_CHUNKS = 40  # streams per value of the time to the first chunk
_STALL_SECONDS = 4.0
_IMPORTS_A_ROUND = 5
_MIB = 1 << 20
_FAST_STREAMS = 4  # streams per value; the baseline takes as long for a single stream

SERVICE, QUIET, TWO, BASELINE, CONSTANT, RAW = (
    "service",
    "service, no access log",
    "service, 2 workers",
    "baseline",
    "constant bytes",
    "raw socket",
)
STREAM_1000, STREAM_100 = "ListUsersChunked, chunk 1000", "ListUsersChunked, chunk 100"
GET, ADD, BATCH = "GetUser, 4 x 16 at a time", "AddUser with request_id, 4 x 16 at a time", "BatchGetUsers of 100"
CLIENTS = "clients, list_chunked(1000)"
TYPESCRIPT = "TypeScript, user_id only"
TYPESCRIPT_MEMORY = "memory growth of the TypeScript client, list_chunked(1000)"
STORE_MEMORY = "Redis memory to encoded payload"
FIRST_CHUNK, PAGE = "time to the first chunk", "one page of ListUsers"
STALL, UNARY_MEMORY = "server's memory growth, stalled reader", "server's memory growth, single calls"
IMPORT = "import"

ROWS = (
    Row(STREAM_1000, SERVICE, BASELINE, 60),
    Row(STREAM_100, SERVICE, BASELINE, 30),
    Row(STREAM_1000, SERVICE, RAW, 0.30),
    Row(GET, SERVICE, CONSTANT, 0.65),
    Row(GET, SERVICE, BASELINE, 2.0),
    Row(ADD, SERVICE, CONSTANT, 0.45),
    Row(BATCH, "BatchGetUsers", "GetUser", 20),
    Row(CLIENTS, "Python, user_id only", "Python, each a dict", 10),
    Row(CLIENTS, "Python, all metadata", "Python, each a dict", 2),
    Row(CLIENTS, TYPESCRIPT, "Python, user_id only", 0.5),
    Row(TYPESCRIPT_MEMORY, TYPESCRIPT, "", 64, is_most=True),
    Row(STORE_MEMORY, SERVICE, "", 1.8, is_most=True),
    Row(FIRST_CHUNK, "deep store", "small store", 1.5, is_most=True),
    Row(PAGE, "at the end", "at the start", 1.3, is_most=True),
    Row(STALL, SERVICE, "", 32, is_most=True),
    Row(UNARY_MEMORY, SERVICE, "", 16, is_most=True),
    Row(IMPORT, "userservice", "grpc and protobuf", 1.2, is_most=True),
)


@dataclass
class Sweep:
    """The data of the plot.

    Attributes:
        users_per_second: rate by contestant (with the size of its store) and chunk size.
        first_chunk: seconds to the first chunk, by store size and chunk size.
    """

    users_per_second: dict[str, dict[int, float]] = field(default_factory=dict)
    first_chunk: dict[int, dict[int, float]] = field(default_factory=dict)


class Bench:
    """Runs servers and stores for the duration of the ``with`` block, and measures them."""

    def __init__(self, size: Size, folder: Path, port: int) -> None:
        self._size = size
        self._folder = folder
        self._port = port
        self._stack = ExitStack()
        self._expected: dict[tuple[int, bytes], int] = {}
        self._numbers = iter(range(size.users, 1 << 40))  # of users that are added

    def __enter__(self) -> Self:
        """Starts the servers and fills the stores that most measurements need."""
        with ExitStack() as stack:
            self.store = self._filled("users", self._size.users, stack)
            self.baseline_store = stack.enter_context(stores.running(self._folder / "baseline"))
            self.baseline_store.fill_baseline(self._size.users)
            self.store_memory = self.store.memory_per_payload()
            records = self.store.records()
            self.payload = sum(map(len, records))
            url, folder = self.store.url, self._folder
            self.service = stack.enter_context(programs.service("service", url, folder, port=self._port))
            self.quiet = stack.enter_context(programs.service("quiet", url, folder, "--access-log", "false"))
            self.two = stack.enter_context(programs.service("two", url, folder, "--workers", "2"))
            self.baseline = stack.enter_context(programs.baseline(self.baseline_store.url, folder))
            self.constant = stack.enter_context(programs.constant(records[0], self._size.users, folder))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stops the servers and stores."""
        self._stack.close()

    def _filled(self, name: str, count: int, stack: ExitStack) -> Store:
        store = stack.enter_context(stores.running(self._folder / name))
        store.fill(count)
        return store

    def figures(self) -> Iterator[Figure]:
        """Measures one figure after the other."""
        yield Figure(STORE_MEMORY, "x", {SERVICE: [self.store_memory]})
        yield self._streams(STREAM_1000, 1000)
        yield self._streams(STREAM_100, 100)
        yield self._get()
        yield self._batch()
        yield self._clients()
        yield self._unary_memory()
        yield self._import()
        yield self._add()  # last, because it makes the stores grow

    # Streams.

    def _streams(self, name: str, chunk_size: int) -> Figure:
        raw = RawRead(self.store)
        contestants: dict[str, Callable[[], float]] = {
            SERVICE: lambda: self._stream(self.service, chunk_size, _FAST_STREAMS),
            QUIET: lambda: self._stream(self.quiet, chunk_size, _FAST_STREAMS),
            TWO: lambda: self._stream(self.two, chunk_size, _FAST_STREAMS, connections=2),
            CONSTANT: lambda: self._stream(self.constant, chunk_size, _FAST_STREAMS),
            BASELINE: lambda: self._stream(self.baseline, chunk_size, 1),
            RAW: lambda: self.payload / _MIB / raw.seconds(),
        }
        return measured(name, "MiB/s", self._size.rounds, contestants)

    def _stream(self, program: Program, chunk_size: int, calls: int, connections: int = 1) -> float:
        request = pb.ListUsersChunkedRequest(chunk_size=chunk_size)
        load = h2load.run(program.port, _STREAM, request, calls=calls, connections=connections)
        self._check(program, _STREAM, request, load)
        return load.data_bytes / _MIB / load.seconds

    # Single calls.

    def _get(self) -> Figure:
        request = pb.GetUserRequest(user_id=user_id(self._size.users // 2))
        programs_by_name = {
            SERVICE: self.service,
            QUIET: self.quiet,
            TWO: self.two,
            CONSTANT: self.constant,
            BASELINE: self.baseline,
        }
        contestants = {
            name: self._loaded(program, "UserService/GetUser", request) for name, program in programs_by_name.items()
        }
        return measured(GET, "calls/s", self._size.rounds, contestants)

    def _batch(self) -> Figure:
        first = self._size.users // 2
        names = [user_id(number) for number in range(first, first + _BATCH)]
        get = self._loaded(self.service, "UserService/GetUser", pb.GetUserRequest(user_id=names[0]))
        batch = self._loaded(self.service, "UserService/BatchGetUsers", pb.BatchGetUsersRequest(user_ids=names))
        contestants = {"GetUser": get, "BatchGetUsers": lambda: batch() * _BATCH}
        return measured(BATCH, "users/s", self._size.rounds, contestants)

    def _loaded(self, program: Program, method: str, request: Message) -> Callable[[], float]:
        """Returns a function that generates a load of about ``load_seconds`` and returns its rate."""
        calls = 4 * _CONNECTIONS * _STREAMS

        def load() -> float:
            nonlocal calls
            done = h2load.run(program.port, method, request, calls=calls, connections=_CONNECTIONS, streams=_STREAMS)
            self._check(program, method, request, done)
            rate = done.calls / done.seconds
            calls = max(calls, int(rate * self._size.load_seconds))
            return rate

        return load

    def _add(self) -> Figure:
        contestants = {
            SERVICE: lambda: self._added(self.service, lambda: self.store.count(USERS_KEY)),
            CONSTANT: lambda: self._added(self.constant, None),
            BASELINE: lambda: self._added(self.baseline, lambda: self.baseline_store.count(layout.USERS)),
        }
        return measured(ADD, "calls/s", self._size.rounds, contestants)

    def _added(self, program: Program, count: Callable[[], int] | None) -> float:
        calls = max(100, int(3000 * self._size.load_seconds))
        bodies = [h2load.grpc_frame(self._new_user(next(self._numbers))) for _ in range(calls)]
        before = count() if count else 0
        answers = http2.call_all(
            program.port, "UserService/AddUser", bodies, connections=_CONNECTIONS, streams=_STREAMS
        )
        if count and count() - before != calls:
            raise BenchError(f"AddUser: {calls} calls added {count() - before} users")
        return calls / answers.seconds

    @staticmethod
    def _new_user(number: int) -> pb.AddUserRequest:
        (user,) = users(1, number)
        user.request_id = str(UUID(int=number, version=4))
        return user

    def _unary_memory(self) -> Figure:
        request = pb.GetUserRequest(user_id=user_id(0))
        calls = self._size.memory_calls
        before = self.service.memory()
        load = h2load.run(
            self.service.port,
            "UserService/GetUser",
            request,
            calls=calls,
            connections=_CONNECTIONS,
            streams=_STREAMS,
        )
        self._check(self.service, "UserService/GetUser", request, load)
        return Figure(UNARY_MEMORY, f"MiB in {calls} calls", {SERVICE: [(self.service.memory() - before) / _MIB]})

    def _check(self, program: Program, method: str, request: Message, load: h2load.Load) -> None:
        """Compares the received bytes with those of a correct response from grpcio; an error is much shorter."""
        key = (program.port, method.encode() + request.SerializeToString())
        if key not in self._expected:
            self._expected[key] = _answer_bytes(program.port, method, request)
        if load.data_bytes != load.calls * self._expected[key]:
            expected = load.calls * self._expected[key]
            raise BenchError(f"{method}: received {load.data_bytes} bytes instead of {expected}; some calls failed")

    # The clients.

    def _clients(self) -> Figure:
        kinds = {"user_id only": "ids", "all metadata": "metadata", "each a dict": "dicts"}
        contestants: dict[str, Callable[[], float]] = {
            f"Python, {name}": partial(self._read, kind) for name, kind in kinds.items()
        }
        if typescript.is_there():
            contestants[TYPESCRIPT] = lambda: typescript.read(self.service.port, self._size.users).users_per_second
        return measured(CLIENTS, "users/s", self._size.rounds, contestants)

    def _read(self, kind: str) -> float:
        count, seconds = _output("-m", "benchmarks.readers", kind, str(self.service.port)).split()
        if int(count) != self._size.users:
            raise BenchError(f"the Python client read {count} of {self._size.users} users")
        return self._size.users / float(seconds)

    def _import(self) -> Figure:
        # Compiled once, as in an installation, even if the environment disables compiled files.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(self._folder / "compiled")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        contestants = {name: lambda text=text: _import_ms(text, environment) for name, text in _IMPORTS.items()}
        return measured(IMPORT, "ms", self._size.rounds, contestants)

    # Deep stores.

    def deep_figures(self, sweep: Sweep) -> Iterator[Figure]:
        """Measures the effect of the number of users; adds the data of the plot to ``sweep``."""
        size = self._size
        with ExitStack() as stack:
            few_store, deep_store = self._filled("few", size.few, stack), self._filled("deep", size.deep, stack)
            few = stack.enter_context(programs.service("few", few_store.url, self._folder))
            deep = stack.enter_context(programs.service("deep", deep_store.url, self._folder))
            contestants = {"small store": lambda: _first_chunk(few, 100), "deep store": lambda: _first_chunk(deep, 100)}
            yield measured(FIRST_CHUNK, "ms", size.rounds, contestants)
            yield self._page(deep, deep_store)
            yield self._stall(deep)
            if typescript.is_there():
                grown = typescript.read(deep.port, size.deep).grown_mib
                yield Figure(TYPESCRIPT_MEMORY, f"MiB, {size.deep} users", {TYPESCRIPT: [grown]})
            self._sweep_store(sweep, few, size.few)
            self._sweep_store(sweep, self.service, size.users)
            self._sweep_store(sweep, deep, size.deep)
        # Smaller and larger stores, one after the other, for the plot only.
        for count in size.sweep:
            with ExitStack() as stack:
                store = self._filled(f"sweep{count}", count, stack)
                program = stack.enter_context(programs.service(f"sweep{count}", store.url, self._folder))
                self._sweep_store(sweep, program, count)

    def _page(self, program: Program, store: Store) -> Figure:
        ((last_but_a_page,),) = [store.redis.zrange(USERS_KEY, -_PAGE - 1, -_PAGE - 1)]
        cursors = {"at the start": 0, "at the end": record_id(last_but_a_page)}

        def page(cursor: int) -> float:
            request = pb.ListUsersRequest(limit=_PAGE, cursor=cursor)
            load = h2load.run(
                program.port, "UserService/ListUsers", request, calls=max(20, int(500 * self._size.load_seconds))
            )
            self._check(program, "UserService/ListUsers", request, load)
            return load.latency * 1000

        contestants = {name: lambda cursor=cursor: page(cursor) for name, cursor in cursors.items()}
        return measured(PAGE, "ms", self._size.rounds, contestants)

    def _stall(self, program: Program) -> Figure:
        before = highest = program.memory()
        connection = http2.stalled(program.port, _STREAM, pb.ListUsersChunkedRequest(chunk_size=1000))
        until = time.monotonic() + _STALL_SECONDS
        while time.monotonic() < until:
            highest = max(highest, program.memory())
            time.sleep(0.02)
        connection.close()
        return Figure(STALL, f"MiB, {self._size.deep} users", {SERVICE: [(highest - before) / _MIB]})

    def _sweep_store(self, sweep: Sweep, program: Program, count: int) -> None:
        rates = sweep.users_per_second.setdefault(f"service, {count} users", {})
        first_chunks = sweep.first_chunk.setdefault(count, {})
        for chunk_size in self._size.chunk_sizes:
            request = pb.ListUsersChunkedRequest(chunk_size=chunk_size)
            loads = [h2load.run(program.port, _STREAM, request, calls=1) for _ in range(3 if count < 10**6 else 1)]
            rates[chunk_size] = count / median(load.seconds for load in loads)
            first_chunks[chunk_size] = _first_chunk(program, chunk_size) / 1000


_IMPORTS = {
    # The imports that every client of these protos needs.
    "grpc and protobuf": "import grpc; from google.protobuf import field_mask_pb2, struct_pb2, timestamp_pb2",
    "userservice": "import userservice",
}


def _import_ms(statement: str, environment: Mapping[str, str]) -> float:
    script = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return median(float(_output("-c", script, environment=environment)) for _ in range(_IMPORTS_A_ROUND)) * 1000


def _output(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise BenchError(f"{' '.join(arguments[:3])} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def _first_chunk(program: Program, chunk_size: int) -> float:
    """Returns the milliseconds from the request to the end of the first chunk, on an open connection."""
    request = pb.ListUsersChunkedRequest(chunk_size=chunk_size)
    needed = _first_answer_bytes(program.port, request)
    connection = http2.Connection(program.port)
    times = [http2.first_bytes(connection, _STREAM, request, needed=needed) for _ in range(_FIRST_CHUNKS)]
    connection.close()
    return median(times) * 1000


def _answers(channel: grpc.Channel, method: str, request: Message) -> Iterator[bytes]:
    call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/userservice.v1.{method}")
    return call(request.SerializeToString())


def _answer_bytes(port: int, method: str, request: Message) -> int:
    """Returns the size of all messages of a response; checks that the call ends with OK."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            return sum(len(answer) + h2load.FRAME_HEAD_BYTES for answer in _answers(channel, method, request))
        except grpc.RpcError as error:
            raise BenchError(f"{method} failed with {error.code()}") from None


def _first_answer_bytes(port: int, request: Message) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return len(next(_answers(channel, _STREAM, request))) + h2load.FRAME_HEAD_BYTES
