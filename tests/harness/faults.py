"""Faults of real services that make the alerts of deploy/ fire.

Each function starts a service and returns the work that causes the fault. The work runs in threads until `ended` is
set.
"""

import asyncio
import itertools
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import grpc

from harness.connections import OPTIONS, BlockingStubs, connect, connect_blocking
from harness.credentials import DAY, TlsFiles, authority, channel_credentials, issued, new_key, private
from harness.feeds import feed_on, start
from harness.population import fill, struct
from harness.ports import free_port
from harness.programs import command_line, descendants
from harness.services import Service
from harness.stores import Store
from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    BatchGetUsersRequest,
    GetUserRequest,
    ListUsersChunkedRequest,
)
from userservice.v1.user_service_pb2_grpc import UserServiceStub

Work = Callable[[], object]
FULL_DISK = [Path(__file__).parent / "full_disk.py"]
USERS = 10_000  # of 330 bytes: more than the buffers of a stream that nobody reads
STREAMS, CONNECTIONS = 425, 5  # a connection may have 125 streams
CALLS, MAX_CALLS = 1200, 1000  # MAX_CALLS is the default of --max-calls
HELD_BACK = ("grpc.http2.bdp_probe", 0)  # a client buffers less
DESCRIPTORS = 200
DOWN = 6  # seconds; a fast machine starts the service sooner than Prometheus notices that it is down


class Stage:
    """What the faults share.

    Attributes:
        room: a folder.
        store: a store with users, which no fault changes.
        ended: set when the faults must end.
        metrics: the address of the metrics of each fault's service.
    """

    def __init__(self, room: Path, stack: ExitStack, faults: list[str]) -> None:
        self.room = room
        self.ended = Event()
        self.metrics = {fault: f"127.0.0.1:{free_port()}" for fault in faults}
        self._stack = stack
        self.store = self.new_store()
        fill(self.store, (f"u{number}" for number in range(USERS)), metadata=struct({"k": "x" * 200}))

    def new_store(self, *options: str) -> Store:
        return self._stack.enter_context(Store(options=options))

    def service(self, fault: str, *arguments: str | Path, store: Store | None = None, **options: Any) -> Service:
        url = (store or self.store).url
        service = Service("--metrics-listen", self.metrics[fault], *arguments, redis_url=url, **options)
        return self._stack.enter_context(service)

    def repeat(self, pause: float, *calls: Work) -> None:
        """Makes calls, which may fail, until the faults end."""
        for call in itertools.cycle(calls):
            if self.ended.wait(pause):
                return
            with suppress(grpc.RpcError):
                call()


def get(stubs: BlockingStubs, user_id: str = "u1") -> object:
    return stubs.users.GetUser(GetUserRequest(user_id=user_id), timeout=5)


def add(stubs: BlockingStubs, number: int) -> object:
    return stubs.users.AddUser(AddUserRequest(user_id=f"new{number}"), timeout=5)


def store_killed(stage: Stage) -> list[Work]:
    store = stage.new_store()
    service = stage.service("store_killed", "--store-timeout", "0.5", store=store)

    def work() -> None:
        store.kill()
        with connect_blocking(service.address) as stubs:
            stage.repeat(0.02, lambda: get(stubs))

    return [work]


def store_slow(stage: Stage) -> list[Work]:
    """The store does not answer for 0.8 s, again and again."""
    store = stage.new_store()
    service = stage.service("store_slow", store=store)

    def pause() -> None:
        with store.client() as client:
            stage.repeat(0.9, lambda: client.execute_command("CLIENT", "PAUSE", "800", "ALL"))

    def call() -> None:
        with connect_blocking(service.address) as stubs:
            stage.repeat(0.01, lambda: stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=["u1"]), timeout=5))

    return [pause, call]


def calls_pile_up(stage: Stage) -> list[Work]:
    """The store hangs, so that as many calls run as the service admits, and further calls are rejected."""
    store = stage.new_store()
    service = stage.service("calls_pile_up", "--store-timeout", "60", "--call-timeout", "60", store=store)

    async def call_all() -> None:
        async with connect(service.address) as first, connect(service.address) as second:
            request = GetUserRequest(user_id="u1")
            calls = [stubs.users.GetUser(request, timeout=100) for stubs in [first, second] * (CALLS // 2)]
            while not stage.ended.is_set() and sum(call.done() for call in calls) < CALLS - MAX_CALLS:  # noqa: ASYNC110 - as a thread sets the event
                await asyncio.sleep(0.2)  # until all others are running
            while not stage.ended.is_set():
                await _ended(first.users.GetUser(request, timeout=1))
                await asyncio.sleep(0.05)
            for call in calls:
                call.cancel()
            await asyncio.gather(*map(_ended, calls))

    def work() -> None:
        store.freeze()
        asyncio.run(call_all())
        store.thaw()

    return [work]


async def _ended(call: Any) -> None:
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await call


def readers_stall(stage: Stage) -> list[Work]:
    """More than 400 streams are open and are not read, until the service closes them."""
    service = stage.service("readers_stall", "--stall-timeout", "20")

    async def open_streams() -> None:
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(connect(service.address, HELD_BACK)) for _ in range(CONNECTIONS)
            ]
            requests = [ListUsersChunkedRequest(chunk_size=100)] * (STREAMS // CONNECTIONS)
            streams = [stubs.users.ListUsersChunked(request) for stubs in connections for request in requests]
            for stream in streams:
                await stream.read()
            await asyncio.to_thread(stage.ended.wait)
            for stream in streams:
                stream.cancel()

    return [lambda: asyncio.run(open_streams())]


def watch_stalls(stage: Stage) -> list[Work]:
    """A watch is not read, and there are more changes than the network buffers hold."""
    store = stage.new_store()
    service = stage.service("watch_stalls", store=store)

    async def watch() -> None:
        await feed_on(store.url)
        async with connect(service.address, HELD_BACK) as stubs:
            call = stubs.users.WatchUsers(start(now=True))
            await call.read()
            for number in range(100):
                await stubs.users.AddUser(AddUserRequest(user_id=f"u{number}", metadata=struct({"k": "x" * 60_000})))
            await asyncio.to_thread(stage.ended.wait)
            call.cancel()

    return [lambda: asyncio.run(watch())]


def store_full(stage: Stage) -> list[Work]:
    """The store has no memory left, and closes connections."""
    store = stage.new_store("--maxmemory-policy", "noeviction")
    service = stage.service("store_full", store=store)

    def work() -> None:
        with store.client() as client, connect_blocking(service.address) as stubs:
            client.config_set("maxmemory", 1024)
            numbers = itertools.count()
            stage.repeat(0.1, lambda: add(stubs, next(numbers)))

    def disconnect() -> None:
        with store.client() as client:
            stage.repeat(0.8, lambda: client.client_kill_filter(_type="normal", skipme=True))

    return [work, disconnect]


def bad_files_and_callers(stage: Stage) -> list[Work]:
    """The certificate expires in a day, its replacement is invalid, and callers have no credential."""
    root = authority()
    identity = issued(root, ends=DAY)
    files = TlsFiles(stage.room).write(identity)
    keys = stage.room / "keys.toml"
    new_key(keys)
    service = stage.service("bad_files_and_callers", *files.arguments, "--auth", "keys", "--keys-file", keys)

    def replace() -> None:
        broken = partial(private, stage.room / "tls.crt", b"no certificate")
        stage.repeat(3, broken, lambda: files.write(identity))

    def call() -> None:
        with grpc.secure_channel(service.address, channel_credentials(root), OPTIONS) as channel:
            users = UserServiceStub(channel)
            stage.repeat(0.1, lambda: users.GetUser(GetUserRequest(user_id="u1"), timeout=5))

    return [replace, call]


def worker_killed(stage: Stage) -> list[Work]:
    """One of two workers is killed; then each worker hangs for a moment, again and again."""
    service = stage.service("worker_killed", "--workers", "2")

    def workers() -> list[int]:
        return [pid for pid in descendants(service.pid) if "spawn_main" in command_line(pid)]

    def hang() -> None:
        for pid in workers():
            os.kill(pid, signal.SIGSTOP)
            stage.ended.wait(1.5)
            os.kill(pid, signal.SIGCONT)

    def work() -> None:
        while not stage.ended.wait(6):
            hang()
            if not stage.ended.wait(7):  # the service accepts five restarts a minute
                os.kill(workers()[0], signal.SIGKILL)

    return [work]


def descriptors_used_up(stage: Stage) -> list[Work]:
    """Connections use 90 % of the file descriptors that the service may have, and the store contains a wrong key."""
    store = stage.new_store()
    service = stage.service("descriptors_used_up", store=store)

    def work() -> None:
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        used = len(list(Path(f"/proc/{service.pid}/fd").iterdir()))
        with ExitStack() as connections:
            for _ in range(int(0.9 * DESCRIPTORS) - used):
                connections.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            stage.ended.wait()

    def call() -> None:
        with store.client() as client, connect_blocking(service.address) as stubs:
            client.set("userservice:{0}:user_ids", "not what it should be")
            stage.repeat(0.1, lambda: get(stubs))

    return [call, work]


def service_crashes(stage: Stage) -> list[Work]:
    """Kills and starts the service repeatedly, each third time after a pause."""
    services = [stage.service("service_crashes")]

    def work() -> None:
        for pause in itertools.cycle((0, 0, DOWN)):
            if stage.ended.wait(1.5):  # seconds, so that Prometheus scrapes the service
                return
            services[-1].kill()
            if stage.ended.wait(pause):
                return
            services.append(stage.service("service_crashes"))

    return [work]


def disk_full(stage: Stage) -> list[Work]:
    """Neither log can be written, and there is no collector of spans."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_MAX_QUEUE_SIZE": "10",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
    }
    arguments = ("--audit-log", stage.room / "audit.jsonl")
    store = stage.new_store()
    service = stage.service("disk_full", *arguments, store=store, environment=environment, program=FULL_DISK)

    def work() -> None:
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        numbers = itertools.count()
        with connect_blocking(service.address) as stubs:
            stage.repeat(0.05, lambda: add(stubs, next(numbers)))

    return [work]


FAULTS: dict[Callable[[Stage], list[Work]], tuple[str, ...]] = {
    store_killed: ("StoreDown", "Errors", "ErrorsPersist"),
    store_slow: ("StoreSlow", "Latency"),
    calls_pile_up: ("CallsNearLimit", "Overloaded"),
    readers_stall: ("StreamsNearLimit", "StalledStreams"),
    watch_stalls: ("WatchLag",),
    store_full: ("StoreFull", "StoreReconnections"),
    bad_files_and_callers: (
        "CredentialsRejected",
        "ReloadFailures",
        "CertificateExpiresSoon",
        "CertificateExpires",
    ),
    worker_killed: ("WorkerRestarts", "EventLoopLag"),
    descriptors_used_up: ("FileDescriptors", "InternalErrors"),
    service_crashes: ("Restarts", "Down"),
    disk_full: ("LogLinesDropped", "AuditLinesDropped", "SpansDropped"),
}
"""The faults, with the alerts that each causes, without the prefix UserService."""

AT_THE_END = "TrafficStopped"
"""The alert that fires when all faults have ended and nobody calls."""


@contextmanager
def stage(room: Path) -> Iterator[Stage]:
    """Yields a stage; ends the services and stores."""
    with ExitStack() as stack:
        yield Stage(room, stack, [fault.__name__ for fault in FAULTS])
