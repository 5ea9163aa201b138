"""ListUsersChunked during concurrent writes, and resumed from any cursor."""

import asyncio
import itertools
from collections import Counter

import pytest
from concurrent_writers import PADDING, Writers
from harness.connections import Stubs, connect
from harness.population import add_users, names, read_chunks, struct
from harness.proxies import Proxy
from harness.services import Service

from userservice import SyncUserManager, UserManager
from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    ListUsersChunkedRequest,
    UpdateUserRequest,
)

# Enough that a stream of small chunks is still under way while other calls come and go.
STEADY = 1500
# Without it, the client's window grows to megabytes, and a server may be done before the first chunk is looked at.
HELD_BACK = (("grpc.http2.bdp_probe", 0),)
LARGE = "x" * 4000


async def read_slowly(stubs: Stubs, chunk_size: int) -> list[str]:
    """Reads a stream, and checks the guarantees of each chunk."""
    seen: list[str] = []
    last_id = 0
    request = ListUsersChunkedRequest(chunk_size=chunk_size)
    async for chunk in stubs.users.ListUsersChunked(request, timeout=60):
        ids = [user.id for user in chunk.users]
        assert 1 <= len(ids) <= chunk_size
        assert ids == sorted(set(ids))
        assert ids[0] > last_id
        last_id = ids[-1]
        seen.extend(user.user_id for user in chunk.users)
        await asyncio.sleep(0)  # others get their turn
    return seen


@pytest.mark.parametrize(
    ("backend", "chunk_size"),
    [
        ("valkey", 7),
        ("redis", 100),
        *(pytest.param(*other, marks=pytest.mark.long) for other in [("valkey", 100), ("redis", 7)]),
    ],
    indirect=["backend"],
)
async def test_every_steady_user_is_returned_exactly_once_during_writes(
    stubs: Stubs, service: Service, chunk_size: int
) -> None:
    steady = [f"steady{number}" for number in range(STEADY)]
    doomed = [f"doomed{number}" for number in range(STEADY)]
    await add_users(stubs, itertools.chain(*zip(steady, doomed, strict=True)), email=PADDING)
    writers = Writers(stubs, steady, doomed)

    async with connect(service.address, *HELD_BACK) as reader, asyncio.TaskGroup() as tasks:
        for write in (writers.update, writers.add, writers.delete):
            tasks.create_task(write())
        seen = Counter(await read_slowly(reader, chunk_size))
        wrote = Counter(writers.wrote)
        writers.stop()

    assert all(wrote[kind] > 0 for kind in ("update", "add", "delete")), wrote
    assert {name: count for name, count in seen.items() if count > 1} == {}
    assert set(steady) - set(seen) == set()


async def test_the_stream_ends_at_the_newest_user_of_its_start(stubs: Stubs, service: Service) -> None:
    """A user is added for every chunk that is read: a stream that followed the newest id would never end."""
    large = struct({"k": "x" * 60_000})  # so that flow control keeps the server from being done before the first add
    before = await add_users(stubs, [f"u{number}" for number in range(40)], metadata=large)
    seen: list[str] = []
    totals: set[int] = set()

    async with connect(service.address, *HELD_BACK) as reader:
        async for chunk in reader.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=1), timeout=30):
            await stubs.users.AddUser(AddUserRequest(user_id=f"new{len(seen)}"))
            seen.extend(user.user_id for user in chunk.users)
            totals.add(chunk.total_size)
            assert len(seen) <= 40, "the stream goes past the newest user of its start"

    assert set(seen) == set(before)
    assert totals == {40}


async def test_every_next_cursor_resumes_where_its_chunk_ended(stubs: Stubs) -> None:
    await add_users(stubs, [f"u{n}" for n in range(60)])
    chunks = await read_chunks(stubs, chunk_size=7)
    everything = names(chunks)
    assert len(everything) == 60

    for index, chunk in enumerate(chunks[:-1]):
        rest = await read_chunks(stubs, chunk_size=11, cursor=chunk.next_cursor)
        assert names(chunks[: index + 1]) + names(rest) == everything
        assert chunk.next_cursor == chunk.users[-1].id
    assert [chunk.next_cursor > 0 for chunk in chunks] == [True] * (len(chunks) - 1) + [False]


async def test_a_cursor_survives_changes_to_the_users_around_it(stubs: Stubs) -> None:
    users = await add_users(stubs, [f"u{n}" for n in range(40)])
    in_order = sorted(users, key=lambda name: users[name].id)
    first = (await read_chunks(stubs, chunk_size=20))[0]
    for name in in_order[18:22]:  # the user that the cursor names among them
        await stubs.users.DeleteUser(DeleteUserRequest(user_id=name))
    for name in in_order[15:18] + in_order[22:25]:
        await stubs.users.UpdateUser(UpdateUserRequest(user_id=name, email="moved"))

    rest = await read_chunks(stubs, cursor=first.next_cursor)

    assert names(rest) == in_order[22:]


async def test_many_streams_at_once_each_see_everything(stubs: Stubs) -> None:
    await add_users(stubs, [f"u{n}" for n in range(1500)])
    sizes = [1, 13, 100, 1000, 1000, 10_000]
    streams = await asyncio.gather(*(read_chunks(stubs, chunk_size=size) for size in sizes))
    assert all(names(chunks) == names(streams[0]) for chunks in streams)
    assert len(set(names(streams[0]))) == 1500


async def test_the_async_manager_resumes_a_cut_stream(service: Service) -> None:
    async with connect(service.address) as stubs:
        expected = set(await add_users(stubs, [f"u{n}" for n in range(2000)], metadata=struct({"k": LARGE})))
    seen: list[str] = []
    cuts = 0
    with Proxy(service.port) as proxy:
        async with UserManager(proxy.address) as manager:
            async for chunk in manager.list_chunked(chunk_size=10):
                seen.extend(user.user_id for user in chunk)
                if len(seen) in (200, 800, 1400):
                    proxy.cut_all()
                    cuts += 1
    assert (cuts, proxy.accepted) == (3, 4)
    assert Counter(seen) == Counter(expected)


def test_the_sync_manager_resumes_a_cut_stream(service: Service) -> None:
    expected = [f"u{n}" for n in range(900)]
    with SyncUserManager(service.address) as direct:
        for user_id in expected:
            direct.add(user_id=user_id, metadata={"k": LARGE})
    seen: list[str] = []
    with Proxy(service.port) as proxy, SyncUserManager(proxy.address) as manager:
        for chunk in manager.list_chunked(chunk_size=10):
            seen.extend(user.user_id for user in chunk)
            if len(seen) == 300:
                proxy.cut_all()
    assert proxy.accepted == 2
    assert seen == expected
