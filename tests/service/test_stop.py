"""The shutdown of the service: no guarantee is broken, and no process or file is left."""

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from harness.connections import connect, health
from harness.failures import failure_of
from harness.population import add_users, names, read_chunks, struct
from harness.ports import free_port
from harness.programs import command_line, descendants, wait_until_gone
from harness.proxies import Proxy
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice import UserManager
from userservice.v1.user_service_pb2 import GetUserRequest, ListUsersChunkedRequest, ListUsersChunkedResponse

LARGE = struct({"k": "x" * 8000})
HELD_BACK = (("grpc.http2.bdp_probe", 0),)


@pytest.fixture(scope="module")
def populated() -> Iterator[Store]:
    """A store of 1000 users, 8 MB in all: more than a connection buffers."""

    async def populate(address: str) -> None:
        async with connect(address) as stubs:
            await add_users(stubs, USER_IDS, metadata=LARGE)

    with Store() as store:
        with Service(redis_url=store.url) as service:
            asyncio.run(populate(service.address))
        yield store


USER_IDS = [f"u{number}" for number in range(1000)]


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, "1"), (signal.SIGINT, "1"), (signal.SIGTERM, "2")])
def test_a_signal_ends_the_process_with_exit_code_0(populated: Store, number: signal.Signals, workers: str) -> None:
    with Service("--workers", workers, redis_url=populated.url) as service:
        assert health(service.address) == "SERVING"
        family = descendants(service.pid)
        assert service.stop(number) == 0
        for pid in family:
            wait_until_gone(pid)


def test_the_embedded_store_stops_with_the_service(tmp_path: Path) -> None:
    with Service(data_dir=tmp_path) as service:
        store_pid = service.store_pid
        socket = Path(command_line(store_pid).partition("unixsocket:")[2].split()[0])
        assert socket.is_socket()
        assert service.stop() == 0
    assert command_line(store_pid) == ""
    assert not socket.exists()


async def test_a_running_call_is_answered(populated: Store) -> None:
    under_way = threading.Event()

    def notice(sent: bytes) -> bool:
        if b"u77" in sent:
            under_way.set()
        return False

    with Proxy(populated.socket) as proxy, Service("--store-timeout", "20", redis_url=proxy.url) as service:
        proxy.lose_reply_after = notice
        async with connect(service.address) as stubs:
            populated.freeze()
            try:
                call = asyncio.ensure_future(stubs.users.GetUser(GetUserRequest(user_id="u77"), timeout=30))
                assert await asyncio.to_thread(under_way.wait, 10)
                service.send(signal.SIGTERM)
                await asyncio.to_thread(service.wait_for, "stderr", '"shutting down"')
                assert not call.done()
            finally:
                populated.thaw()
            assert (await call).user.user_id == "u77"
        assert await asyncio.to_thread(service.wait) == 0


async def test_a_stream_ends_at_a_chunk_with_a_cursor_to_resume_from(populated: Store) -> None:
    with Service(redis_url=populated.url) as service:
        chunks: list[ListUsersChunkedResponse] = []

        async def read() -> None:
            async with connect(service.address, *HELD_BACK) as stubs:
                async for chunk in stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=10), timeout=30):
                    if not chunks:
                        service.send(signal.SIGTERM)
                    chunks.append(chunk)
                    await asyncio.sleep(0.01)

        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await read()
        failure = failure_of(raised.value)
        assert await asyncio.to_thread(service.wait) == 0
    assert (failure.code, failure.reason) == ("UNAVAILABLE", "SERVER_SHUTTING_DOWN")
    assert failure.metadata["next_cursor"] == str(chunks[-1].next_cursor)
    assert failure.retry_after is not None
    assert len(chunks) < 100, "the whole stream was sent, so nothing was shown"

    with Service(redis_url=populated.url) as service:
        async with connect(service.address) as stubs:
            rest = await read_chunks(stubs, chunk_size=10, cursor=int(failure.metadata["next_cursor"]))
    assert Counter(names([*chunks, *rest])) == Counter(USER_IDS)


@pytest.mark.long
async def test_the_manager_resumes_after_a_restart_and_returns_every_user_once(populated: Store) -> None:
    listen = f"127.0.0.1:{free_port()}"
    seen: list[str] = []
    service = Service(redis_url=populated.url, listen=listen)
    try:
        async with UserManager(listen) as manager:
            async for users in manager.list_chunked(chunk_size=10):
                seen.extend(user.user_id for user in users)
                if len(seen) == 200:
                    assert await asyncio.to_thread(service.stop) == 0
                    service = await asyncio.to_thread(Service, redis_url=populated.url, listen=listen)
    finally:
        service.__exit__()
    assert Counter(seen) == Counter(USER_IDS)


async def test_the_manager_resumes_after_a_kill_and_returns_every_user_once(populated: Store) -> None:
    listen = f"127.0.0.1:{free_port()}"
    seen: list[str] = []
    service = Service(redis_url=populated.url, listen=listen)
    try:
        async with UserManager(listen) as manager:
            async for users in manager.list_chunked(chunk_size=10):
                seen.extend(user.user_id for user in users)
                if len(seen) == 200:
                    await asyncio.to_thread(service.__exit__)
                    service = await asyncio.to_thread(Service, redis_url=populated.url, listen=listen)
    finally:
        service.__exit__()
    assert Counter(seen) == Counter(USER_IDS)


async def test_health_reports_not_serving_before_the_shutdown(populated: Store) -> None:
    """Health watches report the shutdown while the service still responds.

    Load balancers can therefore send calls to other servers.
    """
    with Service(redis_url=populated.url) as service:
        async with connect(service.address, *HELD_BACK) as stubs:
            stream = stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=10), timeout=30)
            await stream.read()
            watch = HealthStub(stubs.channel).Watch(HealthCheckRequest(service="userservice.v1.UserService"))
            assert (await watch.read()).status == HealthCheckResponse.SERVING
            service.send(signal.SIGTERM)
            assert (await asyncio.wait_for(watch.read(), 5)).status == HealthCheckResponse.NOT_SERVING
            assert service.running
            stream.cancel()
            watch.cancel()
        assert await asyncio.to_thread(service.wait) == 0


async def test_a_stalled_reader_delays_the_shutdown_only_for_the_grace_period(populated: Store) -> None:
    with Service("--grace", "1", redis_url=populated.url) as service:
        async with connect(service.address, *HELD_BACK) as stubs:
            stream = stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=10), timeout=60)
            await stream.read()
            started = time.monotonic()
            assert await asyncio.to_thread(service.stop, within=10) == 0
            assert time.monotonic() - started < 8
            stream.cancel()


def test_a_second_signal_does_no_harm(populated: Store) -> None:
    with Service(redis_url=populated.url) as service:
        service.send(signal.SIGTERM)
        service.send(signal.SIGTERM)
        service.send(signal.SIGINT)
        assert service.wait() == 0


def test_the_port_is_free_again_at_once(populated: Store) -> None:
    with Service(redis_url=populated.url) as service:
        address = service.address
        assert health(address) == "SERVING"
        assert service.stop() == 0
    with Service(redis_url=populated.url, listen=address) as service:
        assert until(lambda: health(address)) == "SERVING"
