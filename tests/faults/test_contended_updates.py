"""Many writers of one user: all of them succeed, at a cost that does not grow with their number."""

import asyncio
import contextlib
import random

import grpc
import pytest
from harness.connections import Stubs, connect
from harness.population import add_users
from harness.services import Service
from harness.sizing import sized
from harness.stores import Store

from userservice.v1.session_service_pb2 import AddSessionRequest, UpdateSessionRequest
from userservice.v1.user_service_pb2 import DeleteUserRequest, GetUserRequest, UpdateUserRequest

WRITERS = 200
TIMEOUT = 60


def scripts_run(store: Store) -> int:
    with store.client() as client:
        return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


async def write(stubs: Stubs, writer: int, updates: int) -> None:
    for number in range(updates):
        metadata = {f"w{writer}": number}
        request = UpdateUserRequest(user_id="ada")
        request.metadata.update(metadata)
        await stubs.users.UpdateUser(request, timeout=TIMEOUT)


async def assert_all_are_stored(stubs: Stubs, writers: int, updates: int) -> None:
    stored = (await stubs.users.GetUser(GetUserRequest(user_id="ada"))).user.metadata
    assert dict(stored.items()) == {f"w{writer}": updates - 1 for writer in range(writers)}


async def test_two_hundred_writers_of_one_process() -> None:
    updates = sized(3, 20)
    with Store() as store, Service("--call-timeout", str(TIMEOUT), redis_url=store.url) as service:
        async with connect(service.address) as stubs:
            await add_users(stubs, ["ada"])
            before = scripts_run(store)
            await asyncio.gather(*(write(stubs, writer, updates) for writer in range(WRITERS)))
            each = (scripts_run(store) - before) / (WRITERS * updates)
            print(f"{WRITERS} writers: {each:.2f} scripts an update")  # noqa: T201
            assert each < 2
            await assert_all_are_stored(stubs, WRITERS, updates)


@pytest.mark.parametrize("processes", [2])
async def test_writers_of_several_processes(processes: int) -> None:
    """The writers of every process succeed, with few conflicts between the processes."""
    updates, each = sized(5, 20), 25
    with Store() as store, contextlib.ExitStack() as stack:
        services = [
            stack.enter_context(Service("--call-timeout", str(TIMEOUT), redis_url=store.url)) for _ in range(processes)
        ]
        async with contextlib.AsyncExitStack() as channels:
            stubs = [await channels.enter_async_context(connect(service.address)) for service in services]
            await add_users(stubs[0], ["ada"])
            before = scripts_run(store)
            writers = each * processes
            await asyncio.gather(*(write(stubs[writer % processes], writer, updates) for writer in range(writers)))
            cost = (scripts_run(store) - before) / (writers * updates)
            print(f"{writers} writers of {processes} processes: {cost:.2f} scripts an update")  # noqa: T201
            assert cost < 10
            await assert_all_are_stored(stubs[0], writers, updates)


async def test_writers_that_give_up_delay_no_other_writer(stubs: Stubs) -> None:
    await add_users(stubs, ["ada"])

    async def give_up(seconds: float) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stubs.users.UpdateUser(UpdateUserRequest(user_id="ada", email="e"), timeout=seconds)

    await asyncio.gather(
        *(give_up(random.uniform(0.001, 0.1)) for _ in range(100)),  # noqa: S311 - any moment will do
        *(write(stubs, writer, 3) for writer in range(20)),
    )
    await assert_all_are_stored(stubs, 20, 3)


async def test_deletes_with_an_etag_take_turns_with_updates(stubs: Stubs) -> None:
    user = (await add_users(stubs, ["ada"]))["ada"]

    async def delete() -> str:
        try:
            await stubs.users.DeleteUser(DeleteUserRequest(user_id="ada", etag=user.etag), timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    first, *_ = await asyncio.gather(
        delete(), *(write(stubs, writer, 1) for writer in range(20)), return_exceptions=True
    )
    assert first in ("OK", "ABORTED")


async def test_writers_of_one_session(stubs: Stubs) -> None:
    await add_users(stubs, ["ada"])
    await stubs.sessions.AddSession(AddSessionRequest(user_id="ada", session_id="s"))

    async def touch(writer: int) -> None:
        request = UpdateSessionRequest(user_id="ada", session_id="s")
        request.metadata.update({f"w{writer}": writer})
        await stubs.sessions.UpdateSession(request, timeout=TIMEOUT)

    await asyncio.gather(*(touch(writer) for writer in range(100)))
