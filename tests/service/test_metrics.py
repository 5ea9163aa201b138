"""The metrics endpoint: what it serves, and how each metric follows what the service does."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from harness import raw
from harness.connections import Stubs, connect
from harness.credentials import TlsFiles, authority, issued, private
from harness.metrics import METRICS, OPENMETRICS, TEXT, Scrape, get, metrics_address, scrape
from harness.population import add_users, read_chunks
from harness.ports import free_port
from harness.services import Service, clean_environment, resident
from harness.sizing import sized
from harness.stores import Store
from harness.waiting import until
from prometheus_client.samples import Timestamp

from userservice.v1.session_service_pb2 import AddSessionRequest, DeleteSessionRequest, RevokeUserSessionsRequest
from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    FindUsersRequest,
    GetUserRequest,
    GetUserSessionsRequest,
    ListUsersChunkedRequest,
)
from userservice_server.observability.metrics.definitions import CODES, Kind
from userservice_server.observability.metrics.definitions import METRICS as DEFINED
from userservice_server.observability.metrics.endpoint import MAX_CONNECTIONS
from userservice_server.transport.status import RULES

USERS = "userservice.v1.UserService"
UNARY = {"grpc_type": "unary", "grpc_service": USERS}
GET = {**UNARY, "grpc_method": "GetUser"}
STREAM = {"grpc_type": "server_stream", "grpc_service": USERS, "grpc_method": "ListUsersChunked"}
REFLECTION = {"grpc_type": "bidi_stream", "grpc_service": "grpc.reflection.v1.ServerReflection"}
REFLECTION_PATH = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
UNKNOWN = {"grpc_service": "unknown", "grpc_method": "unknown"}
WATCH = {"grpc_type": "server_stream", "grpc_service": "grpc.health.v1.Health", "grpc_method": "Watch"}
HEALTH = {"grpc_service": "grpc.health.v1.Health", "grpc_method": "Check"}


@dataclass(frozen=True)
class Measured:
    """A service with metrics."""

    store: Store
    service: Service
    metrics: str

    def scrape(self) -> Scrape:
        return scrape(self.metrics)


@pytest.fixture(scope="module")
def measured() -> Iterator[Measured]:
    """A service with the users u0 to u9."""
    with Store() as store, Service(*METRICS, "--stall-timeout", "0.4", redis_url=store.url) as service:
        found = Measured(store, service, metrics_address(service))
        asyncio.run(populate(service.address))
        until(lambda: found.scrape().values("userservice_users") == [10])
        yield found
        assert service.stop() == 0


async def populate(address: str) -> None:
    async with connect(address) as stubs:
        await add_users(stubs, [f"u{number}" for number in range(10)])


@pytest.fixture
async def stubs(measured: Measured) -> AsyncIterator[Stubs]:
    async with connect(measured.service.address) as connected:
        yield connected


async def add_session(stubs: Stubs, user_id: str, session_id: str) -> None:
    await stubs.sessions.AddSession(AddSessionRequest(user_id=user_id, session_id=session_id))


async def get_a_user(stubs: Stubs) -> None:
    await stubs.users.GetUser(GetUserRequest(user_id="u0"))


async def failing(call: Awaitable[object], code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() is code


async def get_no_user(stubs: Stubs) -> None:
    await failing(stubs.users.GetUser(GetUserRequest(user_id="nobody")), grpc.StatusCode.NOT_FOUND)


async def send_large_headers(stubs: Stubs) -> None:
    call = stubs.users.GetUser(GetUserRequest(user_id="u0"), metadata=[("filler", "x" * 20_000)])
    await failing(call, grpc.StatusCode.INVALID_ARGUMENT)


async def cancel_a_watch(stubs: Stubs) -> None:
    health = HealthStub(stubs.channel)
    watch = health.Watch(HealthCheckRequest())
    await watch.read()
    await health.Check(HealthCheckRequest())  # is answered after the server has counted the message of the watch
    watch.cancel()
    assert await watch.code() is grpc.StatusCode.CANCELLED


async def read_a_stream(stubs: Stubs) -> None:
    assert len(await read_chunks(stubs, chunk_size=4)) == 3


async def repeat_a_write(stubs: Stubs) -> None:
    request = AddUserRequest(user_id=f"r{uuid4()}", request_id=str(uuid4()))
    first = await stubs.users.AddUser(request)
    assert (await stubs.users.AddUser(request)).user == first.user
    await stubs.users.DeleteUser(DeleteUserRequest(user_id=request.user_id))


async def find_users(stubs: Stubs) -> None:
    await stubs.users.FindUsers(FindUsersRequest(emails=["nobody@example.com"]))


async def list_sessions(stubs: Stubs) -> None:
    await stubs.users.GetUserSessions(GetUserSessionsRequest(user_id="u0"))


async def revoke_sessions(stubs: Stubs) -> None:
    await stubs.sessions.RevokeUserSessions(RevokeUserSessionsRequest(user_id="u0"))


async def call_unknown_methods(stubs: Stubs) -> None:
    for method in ("/userservice.v1.UserService/Nothing", f"/{uuid4()}/x"):
        await failing(raw.unary_unary(stubs.channel, method)(b""), grpc.StatusCode.UNIMPLEMENTED)


async def check_an_unknown_service(stubs: Stubs) -> None:
    await failing(HealthStub(stubs.channel).Check(HealthCheckRequest(service="?")), grpc.StatusCode.NOT_FOUND)


async def send_nothing(stubs: Stubs) -> None:
    stream = raw.stream_stream(stubs.channel, REFLECTION_PATH)()
    assert await stream.code() is grpc.StatusCode.UNAVAILABLE


async def ask_twice(stubs: Stubs) -> None:
    stream = raw.stream_stream(stubs.channel, REFLECTION_PATH)()
    for _ in range(2):
        await stream.write(b"\x3a\x00")  # list_services
        assert await stream.read()
    await stream.done_writing()
    assert await stream.code() is grpc.StatusCode.OK


Changes = dict[str, tuple[dict[str, str], float]]
"""By the name of a sample: its labels, and by how much it grows."""

NO_REJECTION: Changes = {"userservice_rejected_calls_total": ({}, 0)}


def handled(labels: dict[str, str], code: str, **messages: float) -> Changes:
    changes: Changes = {
        "grpc_server_started_total": (labels, 1),
        "grpc_server_handled_total": ({**labels, "grpc_code": code}, 1),
        "grpc_server_handling_seconds_count": (labels, 1),
    }
    return changes | {f"grpc_server_msg_{name}_total": (labels, number) for name, number in messages.items()}


def rejected(reason: str) -> Changes:
    return {"userservice_rejected_calls_total": ({"reason": reason}, 1)}


def replied(script: str, times: int = 1) -> Changes:
    return {"userservice_store_seconds_count": ({"script": script}, times)}


CASES: list[tuple[Callable[[Stubs], Awaitable[None]], Changes]] = [
    (get_a_user, handled(GET, "OK", received=1, sent=1) | replied("get") | NO_REJECTION),
    (get_no_user, handled(GET, "NotFound", received=1, sent=0) | rejected("USER_NOT_FOUND")),
    (send_large_headers, handled(GET, "InvalidArgument", sent=0) | rejected("INVALID_FIELD") | replied("get", 0)),
    (
        read_a_stream,
        handled(STREAM, "OK", received=1, sent=3)
        | replied("range", 2)
        | {"userservice_streamed_users_total": ({}, 10)},
    ),
    (cancel_a_watch, handled(WATCH, "Canceled", sent=1) | NO_REJECTION),
    (repeat_a_write, {"userservice_request_id_replays_total": ({}, 1)} | replied("add", 2)),
    (find_users, replied("find") | NO_REJECTION),
    (list_sessions, replied("expired") | NO_REJECTION),
    (revoke_sessions, replied("revoke") | NO_REJECTION),
    (
        call_unknown_methods,
        {
            "grpc_server_started_total": (UNKNOWN, 2),
            "grpc_server_handled_total": ({**UNKNOWN, "grpc_code": "Unimplemented"}, 2),
        },
    ),
    (check_an_unknown_service, handled(HEALTH, "NotFound") | NO_REJECTION),
    (send_nothing, handled(REFLECTION, "Unavailable") | {"userservice_stalled_streams_total": ({}, 1)}),
    (ask_twice, handled(REFLECTION, "OK", received=2, sent=2)),
]


@pytest.mark.parametrize(("action", "changes"), CASES, ids=[action.__name__ for action, _ in CASES])
async def test_an_event_is_counted_once_and_before_its_caller_sees_it(
    measured: Measured, stubs: Stubs, action: Callable[[Stubs], Awaitable[None]], changes: Changes
) -> None:
    before = measured.scrape()
    await action(stubs)

    def grown() -> dict[str, float]:
        after = measured.scrape()
        return {name: after.value(name, **of) - before.value(name, **of) for name, (of, _) in changes.items()}

    expected = {name: number for name, (_, number) in changes.items()}
    if action is cancel_a_watch:  # its caller does not wait for the end of the call
        await asyncio.to_thread(until, lambda: grown() == expected)
    assert grown() == expected


async def test_gauges_show_what_runs_and_what_is_stored(measured: Measured, stubs: Stubs) -> None:
    def shown(name: str, value: float) -> bool:
        return measured.scrape().values(name) == [value]

    assert shown("userservice_users", 10)
    assert shown("userservice_store_up", 1)
    watch = HealthStub(stubs.channel).Watch(HealthCheckRequest())
    await watch.read()
    assert shown("userservice_calls_in_progress", 1)
    assert shown("userservice_streams", 0), "a health watch is no stream of the service"
    watch.cancel()
    await asyncio.to_thread(until, lambda: shown("userservice_calls_in_progress", 0))
    for number in range(3):
        await add_session(stubs, "u1", f"s{number}")
    await add_session(stubs, "u2", "s")
    await asyncio.to_thread(until, lambda: shown("userservice_sessions", 4))
    await stubs.sessions.DeleteSession(DeleteSessionRequest(user_id="u1", session_id="s0"))
    await asyncio.to_thread(until, lambda: shown("userservice_sessions", 3))
    await stubs.users.DeleteUser(DeleteUserRequest(user_id="u1"))
    await asyncio.to_thread(until, lambda: shown("userservice_sessions", 1))
    await stubs.users.AddUser(AddUserRequest(user_id="u1"))


async def test_a_running_stream_is_shown(measured: Measured, stubs: Stubs) -> None:
    big = [f"big{number}" for number in range(20)]
    for user_id in big:
        request = AddUserRequest(user_id=user_id)
        request.metadata.update({"k": "x" * 60_000})
        await stubs.users.AddUser(request)
    window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))
    async with connect(measured.service.address, *window) as slow:
        stream = slow.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=1))
        await stream.read()
        assert measured.scrape().value("userservice_streams") == 1
        stream.cancel()
    await asyncio.to_thread(until, lambda: measured.scrape().value("userservice_streams") == 0)
    for user_id in big:
        await stubs.users.DeleteUser(DeleteUserRequest(user_id=user_id))


def test_a_blocked_event_loop_shows(measured: Measured) -> None:
    assert measured.scrape().value("userservice_event_loop_lag_seconds") < 0.5
    measured.service.send(signal.SIGSTOP)
    time.sleep(1.2)
    measured.service.send(signal.SIGCONT)
    until(lambda: measured.scrape().value("userservice_event_loop_lag_seconds") > 0.5)


async def test_connections_to_the_store_and_its_loss_are_shown(measured: Measured, stubs: Stubs) -> None:
    before = measured.scrape().value("userservice_store_reconnections_total")
    with measured.store.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)

    def reconnected() -> float:
        return measured.scrape().value("userservice_store_reconnections_total") - before

    await asyncio.to_thread(until, lambda: reconnected() >= 2)
    await get_a_user(stubs)
    with measured.store.client() as client:
        client.config_set("min-replicas-to-write", 1)
        await asyncio.to_thread(until, lambda: measured.scrape().value("userservice_store_up") == 0)
        client.config_set("min-replicas-to-write", 0)
    await asyncio.to_thread(until, lambda: measured.scrape().value("userservice_store_up") == 1)


TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


async def test_a_bucket_has_the_trace_of_its_last_sampled_call(measured: Measured, stubs: Stubs) -> None:
    for flags, trace in (("01", TRACE), ("00", "f" * 32)):
        metadata = [("traceparent", f"00-{trace}-{PARENT}-{flags}")]
        await stubs.users.GetUser(GetUserRequest(user_id="u0"), metadata=metadata)
    buckets = [
        sample
        for sample in scrape(measured.metrics, OPENMETRICS).samples
        if sample.name == "grpc_server_handling_seconds_bucket" and sample.labels["grpc_method"] == "GetUser"
    ]
    [exemplar] = [sample.exemplar for sample in buckets if sample.exemplar]
    assert exemplar.labels == {"trace_id": TRACE}
    assert 0 < exemplar.value < 5
    assert isinstance(exemplar.timestamp, Timestamp)
    assert float(exemplar.timestamp) == pytest.approx(time.time(), abs=60)
    assert TRACE not in measured.scrape().text, "the text format has no exemplars"


async def test_both_formats_have_the_documented_metrics_and_bounded_labels(measured: Measured) -> None:
    text, openmetrics = measured.scrape(), scrape(measured.metrics, OPENMETRICS)
    assert text.counters().keys() == openmetrics.counters().keys()
    found = {sample.name for sample in text.samples}
    for metric in DEFINED:
        name = f"{metric.name}_count" if metric.kind is Kind.HISTOGRAM else metric.name
        assert (name in found) is (metric.name != "userservice_certificate_expiry_timestamp_seconds"), name
    documented = {metric.name.removesuffix("_total").removesuffix("_info") for metric in DEFINED}
    assert openmetrics.families.keys() <= documented, "each metric of a scrape is documented"
    assert len(text.values("userservice_rejected_calls_total")) == len(RULES)
    assert len(text.values("grpc_server_handled_total")) == len(CODES) * len(text.values("grpc_server_started_total"))
    assert len(text.samples) < 1500


def test_the_endpoint_serves_one_path_and_both_content_types(measured: Measured) -> None:
    assert get(measured.metrics, "/metrics?name[]=x")[0].startswith("text/plain")
    assert get(measured.metrics, accept=OPENMETRICS)[0].startswith("application/openmetrics-text")
    for path in ("/", "/metrics/", "/metricsx"):
        with pytest.raises(urllib.error.HTTPError) as raised:
            get(measured.metrics, path)
        assert raised.value.code == 404
        raised.value.close()


@pytest.mark.long
async def test_scrapers_that_hang_hold_up_neither_scrapes_nor_calls(measured: Measured, stubs: Stubs) -> None:
    host, _, port = measured.metrics.rpartition(":")
    before = measured.scrape().value("process_open_fds")
    with ExitStack() as hanging:
        sockets = [hanging.enter_context(socket.create_connection((host, int(port)))) for _ in range(40)]
        for number, connection in enumerate(sockets):
            connection.sendall([b"", b"GET /met", b"GET /metrics HTTP/1.0\r\n\r\n"][number % 3])
        for _ in range(3):
            assert measured.scrape().samples
        await get_a_user(stubs)
        # The oldest connections make room for newer ones, long before their time limit.
        assert before + 4 < measured.scrape().value("process_open_fds") <= before + MAX_CONNECTIONS + 4


@pytest.mark.long
def test_a_scraper_that_hangs_is_disconnected_after_some_seconds(measured: Measured) -> None:
    host, _, port = measured.metrics.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(10)
        for _ in range(3):
            connection.sendall(b"G")
            time.sleep(1)
        assert connection.recv(1) == b""


def test_the_certificate_and_failed_reloads_are_shown(measured: Measured, tmp_path: Path) -> None:
    root = authority()
    leaf = issued(root)
    files = TlsFiles(tmp_path).write(leaf)
    with Service(*METRICS, *files.arguments, redis_url=measured.store.url) as service:
        address = metrics_address(service)

        def value(name: str, **labels: str) -> float:
            return sum(scrape(address).values(name, **labels))

        until(lambda: value("userservice_certificate_expiry_timestamp_seconds"))
        expiry = leaf.certificate.not_valid_after_utc.timestamp()
        assert value("userservice_certificate_expiry_timestamp_seconds") == expiry
        private(tmp_path / "tls.crt", b"no certificate")
        until(lambda: value("userservice_reload_failures_total", file="TLS certificates"))
        assert value("userservice_reload_failures_total") == 1


def test_dropped_log_lines_are_counted(measured: Measured) -> None:
    address = f"127.0.0.1:{free_port()}"
    arguments = ["--listen", "127.0.0.1:0", "--metrics-listen", address, "--redis-url", measured.store.url]
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen(
            [sys.executable, "-m", "userservice", "serve", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=full,
            env=clean_environment(),
        ) as program,
    ):
        try:
            until(lambda: accepts(address))
            until(lambda: scrape(address).value("userservice_log_lines_dropped_total") >= 2)  # the lines of the start
        finally:
            program.kill()


def accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as connection:
        return connection.connect_ex((host, int(port))) == 0


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ("--metrics-listen", f"127.0.0.1:{port}")
        with Service(*arguments, redis_url="unix:///no/store", wait=False) as service:
            assert service.wait() == 2
            expected = f"cannot listen on 127.0.0.1:{port}: Address already in use (--metrics-listen)"
            assert service.stderr == [f"userservice: error: {expected}"]
            assert service.stdout == []


@pytest.mark.long
async def test_sessions_of_an_older_store_are_counted_while_they_change() -> None:
    with Store() as store:
        with Service(redis_url=store.url) as service:
            async with connect(service.address) as stubs:
                await add_users(stubs, [f"u{number}" for number in range(210)])
                async with asyncio.TaskGroup() as tasks:
                    for number in range(0, 210, 3):
                        tasks.create_task(add_session(stubs, f"u{number}", "s"))
            with store.client() as client:
                assert client.delete("userservice:{0}:session_count")
        with Service(*METRICS, redis_url=store.url) as service:
            address = metrics_address(service)
            async with connect(service.address) as stubs:
                for number in range(0, 210, 7):  # while the service counts
                    await add_session(stubs, f"u{number}", "t")
                    await stubs.users.DeleteUser(DeleteUserRequest(user_id=f"u{number + 1}"))
            with store.client() as client:
                rows = sum(client.zcard(key) for key in client.scan_iter("userservice:{0}:sessions:*"))
            await asyncio.to_thread(until, lambda: scrape(address).values("userservice_sessions") == [rows])


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_thousands_of_scrapes_take_no_memory(measured: Measured) -> None:
    def scrapes(count: int) -> None:
        for number in range(count):
            get(measured.metrics, accept=OPENMETRICS if number % 2 else TEXT)

    await asyncio.to_thread(scrapes, 1000)
    before = resident(measured.service.pid)
    await asyncio.to_thread(scrapes, sized(2000, 9000))
    assert resident(measured.service.pid) - before < 4 << 20
