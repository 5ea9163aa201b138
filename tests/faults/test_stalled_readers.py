"""Stalled readers use little memory, do not affect other calls, and their streams are ended."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import TypeAlias

import grpc
import pytest
from harness.connections import Stubs, connect, health
from harness.failures import failure_of
from harness.population import fill, struct
from harness.services import InstrumentedService, Service, peak, resident
from harness.sizing import FULL, sized
from harness.stores import Store
from harness.waiting import until

from userservice import UserManager
from userservice.v1.user_service_pb2 import GetUserRequest, ListUsersChunkedRequest, ListUsersChunkedResponse

pytestmark = pytest.mark.long

MIB = 1 << 20
MOST_GROWTH = 50 * MIB
STREAMS = 100
USERS = 20_000  # of 330 bytes, 6 MiB in all: far more than the buffers on the way hold
METADATA = struct({"k": "x" * 200})
HELD_BACK = (("grpc.http2.bdp_probe", 0),)


Chunks: TypeAlias = "grpc.aio.UnaryStreamCall[ListUsersChunkedRequest, ListUsersChunkedResponse]"


@pytest.fixture(scope="module")
def large_store() -> Iterator[Store]:
    with Store() as store:
        fill(store, (f"u{number}" for number in range(USERS)), metadata=METADATA)
        yield store


@contextlib.asynccontextmanager
async def stalled(address: str, chunk_size: int) -> AsyncIterator[list["Chunks"]]:
    """Opens many streams and reads only the first chunk of each."""
    async with connect(address, *HELD_BACK) as stubs:
        streams = [stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=chunk_size)) for _ in range(STREAMS)]
        for stream in streams:
            await stream.read()
        yield streams
        for stream in streams:
            stream.cancel()


async def latency(stubs: Stubs, calls: int = 300) -> float:
    """Returns the median duration of a call."""
    times = [time.perf_counter()]
    for _ in range(calls):
        await stubs.users.GetUser(GetUserRequest(user_id="u1"), timeout=10)
        times.append(time.perf_counter())
    return statistics.median(end - start for start, end in pairwise(times))


@pytest.fixture(scope="module")
def store_of_large_users() -> Iterator[Store]:
    with Store() as store:
        fill(store, (f"u{number}" for number in range(300)), metadata=struct({"k": "x" * 60_000}))
        yield store


LARGE = 60_000
MIXED = {
    "a tiny user before large ones": [10, *[LARGE] * 400],
    "tiny and large users in turn": [10, LARGE] * 200,
    "users whose size grows": [int(10 * 1.03**number) for number in range(295)] + [LARGE] * 150,
    "many tiny users before large ones": [10] * 3000 + [LARGE] * 300,
}


@pytest.mark.parametrize("kind", MIXED)
async def test_a_hundred_unread_streams_of_mixed_users(kind: str) -> None:
    await assert_bounded(MIXED[kind], 100, MOST_GROWTH)


@pytest.mark.long
@pytest.mark.parametrize("streams", [300, 1000])
@pytest.mark.parametrize("kind", MIXED)
async def test_very_many_unread_streams_of_mixed_users(kind: str, streams: int) -> None:
    await assert_bounded(MIXED[kind], streams, streams * MIB * 3 // 10)


async def assert_bounded(sizes: list[int], streams: int, most_growth: int) -> None:
    """Opens streams without reading them.

    No stream fails, and the memory of service and store is bounded at every moment.
    """
    with Store() as store:
        fill(store, (f"u{number}" for number in range(len(sizes))), sizes)
        with InstrumentedService("--max-calls", str(16 * streams), redis_url=store.url) as service:
            before, store_before = peak(service.pid), peak(store.program.pid)
            async with connect(service.address, *HELD_BACK) as stubs:
                calls = [stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=100)) for _ in range(streams)]
                for call in calls:
                    assert (await call.read()).users  # type: ignore[attr-defined]
                await asyncio.sleep(1)  # until all hold what they will
                grown, store_grown = peak(service.pid) - before, peak(store.program.pid) - store_before
                print(f"{streams} streams: service {grown / MIB:.0f} MiB, store {store_grown / MIB:.0f} MiB")  # noqa: T201
                assert await asyncio.to_thread(health, service.address) == "SERVING"
                assert not service.log_lines_with("store unavailable")
                for call in calls:
                    call.cancel()
    assert grown < most_growth
    assert store_grown < MOST_GROWTH // 2 + streams * MIB // 10


@pytest.mark.parametrize("chunk_size", [100, 10_000] if FULL else [100])
async def test_a_hundred_stalled_streams(large_store: Store, chunk_size: int) -> None:
    await assert_cheap(large_store, chunk_size)


async def test_a_hundred_stalled_streams_of_large_users(store_of_large_users: Store) -> None:
    await assert_cheap(store_of_large_users, 100)


async def assert_cheap(store: Store, chunk_size: int) -> None:
    """Lets many streams stall, and measures the memory of the server and the duration of other calls."""
    with InstrumentedService("--stall-timeout", str(sized(3, 4)), redis_url=store.url) as service:
        async with connect(service.address) as other:
            async for _ in other.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=1000)):
                pass  # so that what a first stream leaves behind is there already
            await latency(other)
            alone, before, idle = await latency(other), resident(service.pid), await asyncio.to_thread(service.inside)
            async with stalled(service.address, chunk_size) as streams:
                inside = await asyncio.to_thread(service.inside)
                beside, grown = await latency(other), resident(service.pid) - before
                if beside >= 2 * alone:  # measured again, because other programs also cause delays
                    beside = await latency(other)
                print(f"chunks of {chunk_size}: {grown / MIB:.0f} MiB, {alone * 1e3:.2f} → {beside * 1e3:.2f} ms")  # noqa: T201
                assert inside["tasks"] >= idle["tasks"] + STREAMS, "they are not stalled"
                assert grown < MOST_GROWTH
                assert beside < 2 * alone
                # The handlers end although the streams are not read. One internal task of grpc per stream remains.
                ended = idle["tasks"] + STREAMS + 5
                await asyncio.to_thread(until, lambda: service.inside()["tasks"] <= ended, 12)
                await assert_told(streams[0])
            await asyncio.to_thread(until, lambda: service.inside()["tasks"] <= idle["tasks"] + 2)


async def assert_told(stream: "Chunks") -> None:
    """Checks the end of a stream whose reader continues.

    The reader receives the data that were already sent, then the reason with a cursor to resume from.
    """
    cursor = 0
    failure = None
    while failure is None:
        try:
            chunk = await asyncio.wait_for(stream.read(), 10)
            assert isinstance(chunk, ListUsersChunkedResponse)
            cursor = chunk.next_cursor
        except grpc.aio.AioRpcError as error:
            failure = failure_of(error)
    assert (failure.code, failure.reason) == ("UNAVAILABLE", "READER_STALLED")
    assert failure.metadata == {"next_cursor": str(cursor)}
    assert failure.retry_after is not None


async def test_a_stalled_manager_resumes_when_it_reads_again(large_store: Store) -> None:
    seen: list[str] = []
    with Service("--stall-timeout", "0.5", redis_url=large_store.url) as service:
        async with UserManager(service.address, channel_options=HELD_BACK) as manager:
            async for users in manager.list_chunked(chunk_size=1000):
                seen += [user.user_id for user in users]
                if len(seen) in (5000, 10_000)[: sized(1, 2)]:
                    await asyncio.sleep(2)
        await asyncio.to_thread(until, lambda: any(line.get("code") == "UNAVAILABLE" for line in service.log))
    assert len(seen) == len(set(seen)) == USERS
