"""ListUsersChunked while the store changes under it, and resumed from wherever it was left."""

import asyncio
import itertools
from collections import Counter

import pytest
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
STEADY = 3000
PADDING = "x" * 300


@pytest.mark.parametrize("chunk_size", [7, 100])
async def test_every_steady_user_comes_exactly_once_whatever_happens_meanwhile(stubs: Stubs, chunk_size: int) -> None:
    steady = [f"steady{n}" for n in range(STEADY)]
    doomed = [f"doomed{n}" for n in range(STEADY // 4)]
    mixed = [
        name
        for group in itertools.zip_longest(steady[::4], steady[1::4], doomed, steady[2::4], steady[3::4])
        for name in group
        if name
    ]
    await add_users(stubs, mixed, email=PADDING)
    finished = asyncio.Event()
    wrote: Counter[str] = Counter()

    async def update() -> None:
        for user_id in itertools.cycle(steady):
            # Longer and shorter again, so that records move within the store.
            text = PADDING * (wrote["update"] % 3)
            await stubs.users.UpdateUser(UpdateUserRequest(user_id=user_id, metadata=struct({"k": text})))
            wrote["update"] += 1
            if finished.is_set():
                return

    async def add() -> None:
        for number in itertools.count():
            await stubs.users.AddUser(AddUserRequest(user_id=f"new{number}", email=PADDING))
            wrote["add"] += 1
            if finished.is_set():
                return

    async def delete() -> None:
        for user_id in doomed:
            await stubs.users.DeleteUser(DeleteUserRequest(user_id=user_id))
            wrote["delete"] += 1
            if finished.is_set():
                return

    async def read() -> list[str]:
        seen: list[str] = []
        last_id = 0
        request = ListUsersChunkedRequest(chunk_size=chunk_size)
        async for chunk in stubs.users.ListUsersChunked(request, timeout=60):
            assert 1 <= len(chunk.users) <= chunk_size
            assert [user.id for user in chunk.users] == sorted({user.id for user in chunk.users})
            assert chunk.users[0].id > last_id
            last_id = chunk.users[-1].id
            seen.extend(user.user_id for user in chunk.users)
            await asyncio.sleep(0)  # others get their turn
        finished.set()
        return seen

    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read())
        for writer in (update, add, delete):
            tasks.create_task(writer())

    seen = Counter(reading.result())
    assert all(wrote[kind] > 0 for kind in ("update", "add", "delete")), wrote
    assert {name: count for name, count in seen.items() if count > 1} == {}
    assert set(steady) - set(seen) == set()


async def test_it_ends_while_users_are_being_added(stubs: Stubs) -> None:
    """One new user for every chunk that is read: a stream that chased the newest id would never end."""
    before = await add_users(stubs, [f"u{n}" for n in range(50)])
    seen = []
    chunks = 0

    async for chunk in stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=1), timeout=30):
        await stubs.users.AddUser(AddUserRequest(user_id=f"new{chunks}"))
        chunks += 1
        seen.extend(user.user_id for user in chunk.users)
        assert chunks < 500, "the stream does not end"

    assert set(before) <= set(seen)
    assert chunks <= 51


async def test_total_size_is_that_of_the_start(stubs: Stubs) -> None:
    await add_users(stubs, [f"u{n}" for n in range(20)])
    totals = set()
    async for chunk in stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=2), timeout=30):
        await stubs.users.AddUser(AddUserRequest(user_id=f"new of {chunk.users[0].user_id}"))
        totals.add(chunk.total_size)
    assert totals == {20}


async def test_every_next_cursor_resumes_where_its_chunk_ended(stubs: Stubs) -> None:
    await add_users(stubs, [f"u{n}" for n in range(60)])
    chunks = await read_chunks(stubs, chunk_size=7)
    everything = names(chunks)
    assert len(everything) == 60

    for index, chunk in enumerate(chunks[:-1]):
        rest = await read_chunks(stubs, chunk_size=11, cursor=chunk.next_cursor)
        assert names(chunks[: index + 1]) + names(rest) == everything
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
        expected = set(await add_users(stubs, [f"u{n}" for n in range(1000)], email=PADDING))
    seen: list[str] = []
    cuts = 0
    with Proxy(service.port) as proxy:
        async with UserManager(proxy.address) as manager:
            async for chunk in manager.list_chunked(chunk_size=10):
                seen.extend(user.user_id for user in chunk)
                if len(seen) % 250 == 0 and len(seen) < 1000:
                    proxy.cut_all()
                    cuts += 1
    assert cuts == 3
    assert Counter(seen) == Counter(expected)


def test_the_sync_manager_resumes_a_cut_stream(service: Service) -> None:
    expected = [f"u{n}" for n in range(600)]
    with SyncUserManager(service.address) as direct:
        for user_id in expected:
            direct.add(user_id=user_id, email=PADDING)
    seen: list[str] = []
    with Proxy(service.port) as proxy, SyncUserManager(proxy.address) as manager:
        for chunk in manager.list_chunked(chunk_size=10):
            seen.extend(user.user_id for user in chunk)
            if len(seen) == 300:
                proxy.cut_all()
    assert seen == expected
