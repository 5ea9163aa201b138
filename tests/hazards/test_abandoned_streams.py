"""An abandoned stream ends on the server at once, and a slow reader uses little memory."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.connections import connect
from harness.proxies import Proxy
from harness.services import Service
from harness.waiting import until

from userservice import SyncUserManager, UserManager
from userservice.v1.user_service_pb2 import GetUserRequest, ListUsersChunkedRequest

MIB = 1 << 20
HELD_BACK = (("grpc.http2.bdp_probe", 0),)


def ended_streams(service: Service) -> int:
    """Returns the number of streams that the server ended because the client disconnected."""
    return sum(record.get("code") == "CANCELLED" for record in service.log_lines_with("ListUsersChunked"))


def one_more_than(before: int, service: Service) -> Callable[[], bool]:
    return lambda: ended_streams(service) == before + 1


async def test_leaving_the_loop_of_the_async_manager(large_service: Service) -> None:
    before = ended_streams(large_service)
    async with UserManager(large_service.address) as manager:
        async for _ in manager.list_chunked(chunk_size=1):
            break
        await asyncio.to_thread(until, one_more_than(before, large_service), 5)
        assert (await manager.get("u1")).user_id == "u1"


def test_leaving_the_loop_of_the_sync_manager(large_service: Service) -> None:
    before = ended_streams(large_service)
    with SyncUserManager(large_service.address) as manager:
        for _ in manager.list_chunked(chunk_size=1):
            break
        until(one_more_than(before, large_service), 5)
        assert manager.get("u1").user_id == "u1"


async def test_an_exception_in_the_loop(large_service: Service) -> None:
    before = ended_streams(large_service)
    async with UserManager(large_service.address) as manager:
        with pytest.raises(LookupError):
            await _fail_in_the_loop(manager)
        await asyncio.to_thread(until, one_more_than(before, large_service), 5)


async def _fail_in_the_loop(manager: UserManager) -> None:
    async for _ in manager.list_chunked(chunk_size=1):
        raise LookupError


async def test_a_cancelled_task(large_service: Service) -> None:
    before = ended_streams(large_service)
    begun = asyncio.Event()

    async def read(manager: UserManager) -> None:
        async for _ in manager.list_chunked(chunk_size=1):
            begun.set()
            await asyncio.sleep(60)

    async with UserManager(large_service.address) as manager:
        reading = asyncio.create_task(read(manager))
        await begun.wait()
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
        await asyncio.to_thread(until, one_more_than(before, large_service), 5)


async def test_a_manager_that_is_closed_in_mid_stream(large_service: Service) -> None:
    before = ended_streams(large_service)
    manager = UserManager(large_service.address)
    chunks = aiter(manager.list_chunked(chunk_size=1))
    await anext(chunks)
    await manager.close()
    await asyncio.to_thread(until, one_more_than(before, large_service), 5)


async def test_a_cancelled_call_of_the_raw_stub(large_service: Service) -> None:
    before = ended_streams(large_service)
    async with connect(large_service.address, *HELD_BACK) as stubs:
        stream = stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=1))
        await stream.read()
        assert stream.cancel()
        await asyncio.to_thread(until, one_more_than(before, large_service), 5)


async def test_a_stream_whose_connection_is_lost(large_service: Service) -> None:
    before = ended_streams(large_service)
    with Proxy(large_service.port) as proxy:
        async with connect(proxy.address, *HELD_BACK) as stubs:
            stream = stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=1))
            await stream.read()
            proxy.cut_all()
            await asyncio.to_thread(until, one_more_than(before, large_service), 5)
            stream.cancel()


async def test_abandoned_streams_log_no_errors(large_service: Service) -> None:
    """Clients can disconnect at any point of a write; this is normal, so the log must contain no traceback."""
    before = ended_streams(large_service)
    async with UserManager(large_service.address) as manager:
        for _ in range(100):
            async for _ in manager.list_chunked(chunk_size=1):
                break
    await asyncio.to_thread(until, lambda: ended_streams(large_service) == before + 100)
    assert large_service.log_lines_with('"ERROR"') == []


async def test_slow_readers_are_not_cut_off_and_use_little_memory(large_service: Service) -> None:
    async with connect(large_service.address, *HELD_BACK) as stubs:
        whole = stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=1000))
        async for _ in whole:  # so that what a first stream leaves behind is there already
            pass
        before = resident(large_service.pid)
        streams = [stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=10)) for _ in range(8)]
        for stream in streams:
            await stream.read()
        for _ in range(20):  # long enough for a server that does not wait
            await stubs.users.GetUser(GetUserRequest(user_id="u1"))
            await asyncio.sleep(0.05)
        # Eight streams of 12 MB would be 96. Each may hold two reads of the store and a chunk.
        assert resident(large_service.pid) - before < 8 * 3 * MIB
        for stream in streams:
            stream.cancel()


def resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


async def test_other_calls_are_answered_while_a_stream_runs(large_service: Service) -> None:
    """All calls share one event loop, so a stream that blocks the loop would delay all other calls."""
    async with connect(large_service.address) as reader, connect(large_service.address) as other:
        answered_between = 0
        finished = False

        async def ask() -> None:
            nonlocal answered_between
            while not finished:
                await other.users.GetUser(GetUserRequest(user_id="u1"))
                answered_between += 1

        asking = asyncio.create_task(ask())
        chunks = 0
        async for _ in reader.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=10)):
            chunks += 1
        finished = True
        await asking
    assert chunks == 150
    assert answered_between > 10
