"""Acknowledged writes survive a restart, a kill of the service, and a crash of the store."""

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
import redis
from harness.connections import Stubs, connect, connect_blocking
from harness.population import add_users, names, read_chunks, struct
from harness.programs import wait_until_gone
from harness.services import Service

from userservice.v1.session_service_pb2 import AddSessionRequest
from userservice.v1.user_service_pb2 import AddUserRequest, GetUserRequest, GetUserSessionsRequest


def test_all_data_are_unchanged_after_a_restart(tmp_path: Path) -> None:
    request = AddUserRequest(
        user_id="ada", email="a@b", metadata=struct({"k": [1, {"x": None}]}), request_id=str(uuid4())
    )
    with Service(data_dir=tmp_path) as service, connect_blocking(service.address) as stubs:
        user = stubs.users.AddUser(request).user
        session = stubs.sessions.AddSession(AddSessionRequest(user_id="ada", session_id="s")).session
        assert service.stop() == 0

    with Service(data_dir=tmp_path) as service, connect_blocking(service.address) as stubs:
        assert stubs.users.GetUser(GetUserRequest(user_id="ada")).user == user
        assert list(stubs.users.GetUserSessions(GetUserSessionsRequest(user_id="ada")).sessions) == [session]
        assert stubs.users.AddUser(request).user == user, "the request_id was forgotten"
        later = stubs.users.AddUser(AddUserRequest(user_id="bob")).user
        assert later.id > user.id
        assert service.stop() == 0


@pytest.mark.parametrize(("arguments", "expected"), [((), "always"), (("--fsync", "everysec"), "everysec")])
def test_the_embedded_store_uses_the_fsync_setting(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    with Service(*arguments, data_dir=tmp_path), redis.Redis(unix_socket_path=f"{tmp_path}/store.sock") as client:
        settings = client.config_get("append*")
    assert (settings["appendonly"], settings["appendfsync"]) == ("yes", expected)


async def _add_until_cut(stubs: Stubs, acknowledged: list[str], worker: int) -> None:
    for number in itertools.count():
        user_id = f"u{worker}-{number}"
        try:
            await stubs.users.AddUser(AddUserRequest(user_id=user_id))
        except grpc.aio.AioRpcError:
            return
        acknowledged.append(user_id)


async def test_no_acknowledged_user_is_lost_if_service_and_store_are_killed(tmp_path: Path) -> None:
    """After SIGKILL, unlike after a power cut, data that the store has passed to the kernel are not lost."""
    acknowledged: list[str] = []
    with Service(data_dir=tmp_path) as service:
        store_pid = service.store_pid
        async with connect(service.address) as stubs:
            writing = [asyncio.create_task(_add_until_cut(stubs, acknowledged, worker)) for worker in range(16)]
            await asyncio.sleep(1)
            while len(acknowledged) <= 100 and not all(task.done() for task in writing):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.to_thread(service.kill)
            await asyncio.gather(*writing)
        wait_until_gone(store_pid)
    assert len(acknowledged) > 100

    with Service(data_dir=tmp_path) as service:
        async with connect(service.address) as stubs:
            found = names(await read_chunks(stubs, chunk_size=1000))
            assert len(found) == len(set(found))
            assert set(acknowledged) <= set(found)
            for user_id in (acknowledged[0], acknowledged[-1]):
                assert (await stubs.users.GetUser(GetUserRequest(user_id=user_id))).user.user_id == user_id
        assert await asyncio.to_thread(service.stop) == 0


async def test_the_embedded_store_stops_if_the_service_is_killed(tmp_path: Path) -> None:
    with Service(data_dir=tmp_path) as service:
        store_pid = service.store_pid
        async with connect(service.address) as stubs:
            added = await add_users(stubs, [f"u{number}" for number in range(50)])
        os.kill(service.pid, signal.SIGKILL)
        await asyncio.to_thread(service.wait)
        wait_until_gone(store_pid)

    with Service(data_dir=tmp_path) as service:
        async with connect(service.address) as stubs:
            assert set(names(await read_chunks(stubs))) == set(added)
        assert await asyncio.to_thread(service.stop) == 0


@pytest.mark.long
def test_a_service_can_start_right_after_a_kill(tmp_path: Path) -> None:
    with Service(data_dir=tmp_path) as service:
        os.kill(service.pid, signal.SIGKILL)
        service.wait()
        with Service(data_dir=tmp_path) as second:
            assert second.stop() == 0


@pytest.mark.long
def test_a_crash_of_the_embedded_store_is_logged_and_ends_the_service(tmp_path: Path) -> None:
    with Service(data_dir=tmp_path) as service, connect_blocking(service.address) as stubs:
        stubs.users.AddUser(AddUserRequest(user_id="ada"))
        os.kill(service.store_pid, signal.SIGKILL)
        started = time.monotonic()
        assert service.wait() not in (0, 2)
        assert time.monotonic() - started < 15
        assert "store" in service.stderr[-1]
        assert "exited unexpectedly" in service.stderr[-1]

    with Service(data_dir=tmp_path) as service, connect_blocking(service.address) as stubs:
        assert stubs.users.GetUser(GetUserRequest(user_id="ada")).user.user_id == "ada"
        assert service.stop() == 0
