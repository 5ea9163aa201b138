"""Several worker processes on one port."""

import asyncio
import os
import re
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from harness.connections import BlockingStubs, connect, connect_blocking, health
from harness.population import add_users, names, read_chunks
from harness.programs import command_line, descendants, wait_until_gone
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice import UserManager
from userservice.v1.user_service_pb2 import GetUserRequest
from userservice_server.process.event_engine import EXPERIMENTS, VARIABLE

EXITING = [Path(__file__).parents[1] / "harness" / "exiting.py"]


def workers_of(service: Service) -> list[int]:
    return [pid for pid in descendants(service.pid) if "spawn_main" in command_line(pid)]


async def test_two_workers_serve_one_store_and_stop(tmp_path: Path) -> None:
    with Service("--workers", "2", data_dir=tmp_path) as service:
        assert len(workers_of(service)) == 2
        async with connect(service.address) as stubs:
            added = await add_users(stubs, [f"u{number}" for number in range(100)])
        for _ in range(20):  # each a connection of its own, given to one of the two
            async with connect(service.address) as stubs:
                assert (await stubs.users.GetUser(GetUserRequest(user_id="u7"))).user == added["u7"]
                assert set(names(await read_chunks(stubs, chunk_size=30))) == set(added)
        family = descendants(service.pid)
        assert await asyncio.to_thread(service.stop) == 0
        for pid in family:
            wait_until_gone(pid)
        answered = {
            record["request_id"].partition("-")[0] for record in service.log if record.get("method") == "GetUser"
        }
        assert len(answered) == 2, "one of the two was never asked"


@pytest.mark.long
async def test_a_killed_worker_is_replaced_while_calls_and_streams_of_others_continue(tmp_path: Path) -> None:
    with Service("--workers", "2", data_dir=tmp_path) as service, ExitStack() as connections:
        before = workers_of(service)
        watches = [watch(connections.enter_context(connect_blocking(service.address))) for _ in range(12)]
        async with UserManager(service.address, connections=4) as manager:
            await manager.add(user_id="ada")
            reading = asyncio.create_task(read_until_cancelled(manager))
            await asyncio.sleep(0.1)
            os.kill(before[0], signal.SIGKILL)
            ready = "the restarted worker process is ready"
            await asyncio.to_thread(until, lambda: service.log_lines_with(ready))
            await asyncio.sleep(0.1)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):  # and no other error
                await reading
        ended = [watch for watch in watches if not watch.is_active()]
        assert 0 < len(ended) < len(watches), "only the streams of the killed worker end"
        [restart] = service.log_lines_with("is restarted")
        assert (restart["level"], restart["reason"]) == ("ERROR", f"process {before[0]}: exit code -9")
        assert len(set(workers_of(service)) - set(before)) == 1
        assert await asyncio.to_thread(service.stop) == 0
        assert sorted(line["worker"] for line in service.log_lines_with('"serving"')) == sorted([0, 1, restart["slot"]])


def watch(stubs: BlockingStubs) -> Any:
    """Opens a stream that ends with its worker."""
    stream = HealthStub(stubs.channel).Watch(HealthCheckRequest(service="liveness"))
    assert next(stream).status == HealthCheckResponse.SERVING
    return stream


async def read_until_cancelled(manager: UserManager) -> None:
    while True:
        assert (await manager.get("ada")).user_id == "ada"


@pytest.mark.long
def test_a_worker_that_exits_at_every_start_ends_the_service(tmp_path: Path) -> None:
    """A few restarts help against a rare fault, but more of them would hide a permanent one."""
    broken = tmp_path / "broken"
    environment = {"CANARY": str(broken)}
    with Service("--workers", "2", data_dir=tmp_path / "data", environment=environment, program=EXITING) as service:
        family = descendants(service.pid)
        broken.touch()
        os.kill(workers_of(service)[1], signal.SIGKILL)
        assert service.wait() == 1
        assert re.fullmatch(
            r"userservice: error: a worker process exited unexpectedly \(process \d+: exit code 7\) after 5 restarts "
            r"within 60 s",
            service.stderr[-1],
        )
        reasons = [line["reason"].partition(": ")[2] for line in service.log_lines_with("is restarted")]
        assert reasons == ["exit code -9"] + 4 * ["exit code 7"]
        for pid in family:
            wait_until_gone(pid)


def test_workers_exit_if_their_supervisor_is_killed(tmp_path: Path) -> None:
    with Service("--workers", "2", data_dir=tmp_path) as service:
        assert until(lambda: health(service.address)) == "SERVING"
        family = descendants(service.pid)
        os.kill(service.pid, signal.SIGKILL)
        service.wait()
        for pid in family:
            wait_until_gone(pid)


@pytest.mark.long
def test_workers_stopped_while_the_store_loads_do_not_wait_for_it() -> None:
    with Store(append_only=True) as store:
        store.restart_slowly(8)
        until(store.is_loading)
        with Service("--workers", "2", redis_url=store.url, wait=False) as service:
            until(lambda: len(workers_of(service)) == 2)
            assert service.stop() == 0
            assert store.is_loading(), "they waited"
            assert not service.stdout


@pytest.mark.parametrize(
    "moment", [0, pytest.param(0.05, marks=pytest.mark.long), 0.1, pytest.param(0.15, marks=pytest.mark.long)]
)
def test_ctrl_c_while_workers_start_is_an_orderly_stop(moment: float) -> None:
    """Ctrl-C reaches the whole process group, and a worker that is starting has no signal handler yet."""
    with Store() as store, Service("--workers", "2", redis_url=store.url, wait=False) as service:
        until(lambda: workers_of(service), every=0.001)
        time.sleep(moment)
        os.killpg(service.pid, signal.SIGINT)
        assert service.wait(30) == 0
        assert [line for line in service.stderr if not line.startswith("{")] == []


@pytest.mark.long
def test_workers_use_the_event_engine_that_was_chosen_for_this_grpcio(tmp_path: Path) -> None:
    major, minor = grpc.__version__.split(".")[:2]
    expected = EXPERIMENTS.get((int(major), int(minor)))
    with Service("--workers", "2", data_dir=tmp_path) as service:
        for pid in workers_of(service):
            entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
            variables = dict(entry.split("=", 1) for entry in entries if entry)
            assert variables.get(VARIABLE) == expected
