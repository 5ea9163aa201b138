"""Reading all users in parts: PlanUserScan, and list_chunked with `parts` and `parallel`."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import pytest
from concurrent_writers import PADDING, Writers
from harness.connections import Stubs, connect, connect_blocking
from harness.failures import failure_of
from harness.population import add_users, fill, struct
from harness.ports import free_port
from harness.services import Service
from harness.stores import BACKENDS, Store
from harness.topologies import TOPOLOGIES
from harness.waiting import until

from userservice import StoreChangedError, SyncUserManager, UserManager, UserPage, UserScanPart
from userservice.v1.user_service_pb2 import ListUsersChunkedRequest, PlanUserScanRequest

STEADY = 600
LARGE = "x" * 4000


def on_all(*short: str) -> pytest.MarkDecorator:
    """Runs a test on every topology; `make test` runs only those in `short`."""
    stores = [*BACKENDS, *TOPOLOGIES]
    marked = [pytest.param(name, marks=[] if name in short else [pytest.mark.long]) for name in stores]
    return pytest.mark.parametrize("backend", marked, indirect=True)


@on_all("valkey", "redis-cluster")
async def test_parts_return_every_steady_user_exactly_once_during_writes(stubs: Stubs, service: Service) -> None:
    steady = [f"steady{number}" for number in range(STEADY)]
    doomed = [f"doomed{number}" for number in range(STEADY)]
    added = await add_users(stubs, itertools.chain(*zip(steady, doomed, strict=True)), email=PADDING)
    writers = Writers(stubs, steady, doomed)
    seen: Counter[str] = Counter()
    last: dict[tuple[int, int], int] = {}  # the last id of each part
    async with UserManager(service.address) as manager, asyncio.TaskGroup() as tasks:
        for write in (writers.update, writers.add, writers.delete):
            tasks.create_task(write())
        parts = await manager.plan_user_scan(32)
        async for chunk in manager.list_chunked(7, parallel=8, parts=parts):
            assert chunk.part is not None
            ids = [last.get(chunk.part[::2], 0), *(user.id for user in chunk)]
            assert ids == sorted(set(ids))
            assert ids[-1] <= chunk.part.end_cursor
            last[chunk.part[::2]] = ids[-1]
            seen.update(user.user_id for user in chunk)
            await asyncio.sleep(0)  # lets the writers run
        wrote = Counter(writers.wrote)
        writers.stop()
    assert all(wrote[kind] > 0 for kind in ("update", "add", "delete")), wrote
    assert {user_id: count for user_id, count in seen.items() if count > 1} == {}
    assert set(steady) - set(seen) == set()
    assert set(seen) <= set(added) | {f"new{number}" for number in range(wrote["add"])}
    assert len(last) == 32, "each partition was cut into several parts"


@pytest.mark.long
@on_all("valkey")
async def test_parts_survive_kills_of_the_service_and_of_the_reader(store: Store) -> None:
    """The service is killed twice; the reader is replaced after every 12 chunks and keeps only `remaining`, as JSON."""
    listen = f"127.0.0.1:{free_port()}"
    service = Service(redis_url=store.url, listen=listen)
    try:
        async with connect(listen) as stubs:
            expected = set(await add_users(stubs, [f"u{n}" for n in range(600)], metadata=struct({"k": LARGE})))
        seen: Counter[str] = Counter()
        chunks = kills = 0
        async with UserManager(listen) as manager:
            kept = json.dumps(await manager.plan_user_scan(16))
        while remaining := json.loads(kept):
            async with UserManager(listen, timeout=30) as manager:
                async for chunk in manager.list_chunked(10, parallel=4, parts=remaining):
                    seen.update(user.user_id for user in chunk)
                    assert max(seen.values()) == 1
                    kept = json.dumps(chunk.remaining)
                    chunks += 1
                    if chunks in (5, 30):
                        await asyncio.to_thread(service.kill)
                        service.__exit__()
                        service = await asyncio.to_thread(Service, redis_url=store.url, listen=listen)
                        kills += 1
                    if chunks % 12 == 0:
                        break
                else:
                    break
        assert kills == 2
        assert seen == Counter(expected)
    finally:
        service.__exit__()


async def test_one_partition_is_cut_into_parts_of_the_same_size(store: Store, service: Service) -> None:
    fill(store, [f"u{number}" for number in range(1000)])
    async with UserManager(service.address) as manager:
        for count in (1, 3, 64):
            parts = await manager.plan_user_scan(count)
            assert len(parts) == count
            assert [part.cursor for part in parts] == [0, *(part.end_cursor for part in parts[:-1])]
            sizes = [sum([len(chunk) async for chunk in manager.list_chunked(1000, parts=[part])]) for part in parts]
            assert sum(sizes) == 1000
            assert max(sizes) - min(sizes) <= 1


async def test_the_last_chunk_of_a_part_is_not_empty(store: Store, service: Service, stubs: Stubs) -> None:
    """The server detects the last chunk even if it is full, and if later users follow the part."""
    fill(store, [f"u{number}" for number in range(60)])
    plan = await stubs.users.PlanUserScan(PlanUserScanRequest(parts=3))
    await add_users(stubs, ["later"])
    assert service.address
    for part, chunk_size in itertools.product(plan.parts, (10, 20)):
        request = ListUsersChunkedRequest(
            chunk_size=chunk_size, partition=part.partition, cursor=part.cursor, end_cursor=part.end_cursor
        )
        chunks = [chunk async for chunk in stubs.users.ListUsersChunked(request, timeout=30)]
        sizes = [(len(chunk.users), bool(chunk.next_cursor)) for chunk in chunks]
        assert sizes == ([(10, True), (10, False)] if chunk_size == 10 else [(20, False)])


async def test_a_part_of_a_store_with_other_partitions_is_rejected() -> None:
    """After `userservice migrate`, users are in other partitions: the part would leave out users."""
    with (
        Store() as store,
        Service("--partitions", "16", redis_url=store.url) as service,
        connect_blocking(service.address) as stubs,
        SyncUserManager(service.address) as manager,
    ):
        manager.import_users({"user_id": f"u{number}"} for number in range(200))
        parts = manager.plan_user_scan(1)
        assert [part.partition for part in parts] == [*range(16, 32)]
        for partition in (1, 15, 32, 64):
            request = ListUsersChunkedRequest(partition=partition, end_cursor=parts[0].end_cursor)
            with pytest.raises(grpc.RpcError) as raised:
                list(stubs.users.ListUsersChunked(request))
            (violation,) = failure_of(raised.value).violations
            assert violation[0] == "partition"
            assert "from 16 to 31" in violation[1]


async def test_parts_of_an_emptied_store_are_rejected(store: Store, service: Service) -> None:
    async with UserManager(service.address) as manager:
        await manager.add(user_id="ada")
        parts = await manager.plan_user_scan()
        store.empty()
        await manager.add(user_id="bob")
        assert [part.cursor for part in parts] == [0]
        with pytest.raises(StoreChangedError):
            [chunk async for chunk in manager.list_chunked(parts=parts)]
        with store.client() as client:
            client.delete("userservice:{0}:users")
        with pytest.raises(StoreChangedError):
            await manager.plan_user_scan()


async def test_leaving_the_loop_ends_the_streams_of_all_parts(store: Store, service: Service) -> None:
    fill(store, [f"u{number}" for number in range(4000)], sizes=itertools.repeat(4000))

    def cancelled() -> int:
        return sum(line["code"] == "CANCELLED" for line in service.log_lines_with("ListUsersChunked"))

    before = cancelled()

    async def some(manager: UserManager, count: int) -> AsyncIterator[UserPage]:
        async for chunk in manager.list_chunked(10, parallel=4):
            yield chunk
            count -= 1
            if not count:
                return

    async with UserManager(service.address) as manager:
        parts = {chunk.part[::2] async for chunk in some(manager, 6) if chunk.part is not None}
        assert len(parts) == 4
        await asyncio.to_thread(until, lambda: cancelled() == before + 4, 10)


async def test_a_part_that_is_complete_is_not_read_again(service: Service) -> None:
    async with UserManager(service.address) as manager:
        await manager.add(user_id="ada")
        [part] = await manager.plan_user_scan()
        [chunk] = [chunk async for chunk in manager.list_chunked(parts=[part])]
        assert chunk.part == UserScanPart(part.partition, part.end_cursor, part.end_cursor)
        assert chunk.remaining == []
    async with UserManager(f"127.0.0.1:{free_port()}") as nowhere:
        assert [chunk async for chunk in nowhere.list_chunked(parts=[chunk.part])] == []
