"""Notifications to systemd, and its watchdog."""

import os
import signal
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from harness.connections import connect_blocking, health
from harness.programs import command_line, descendants
from harness.service_manager import ServiceManager
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.cli import health as health_command
from userservice.v1.user_service_pb2 import GetUserRequest

SABOTAGED = [Path(__file__).parents[1] / "harness" / "sabotaged.py"]


def blocking(seconds: float) -> dict[str, str]:
    return {"WHERE": "event loop", "HOW_LONG": str(seconds)}


def block(address: str) -> threading.Thread:
    """Makes a call that blocks the event loop of one process."""

    def call() -> None:
        with connect_blocking(address) as stubs, suppress(grpc.RpcError):
            stubs.users.GetUser(GetUserRequest(user_id="u"), timeout=30)

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    return caller


def longest_pause(times: list[float]) -> float:
    return max(after - before for before, after in pairwise(times))


def variables(pid: int) -> set[str]:
    return {entry.partition("=")[0] for entry in Path(f"/proc/{pid}/environ").read_text().split("\0")}


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_systemd_is_notified_of_start_and_stop_by_the_main_process_only(tmp_path: Path, workers: int) -> None:
    with (
        ServiceManager(1.5, abstract=workers == 1) as manager,
        Service("--workers", str(workers), data_dir=tmp_path, environment=manager.environment) as service,
    ):
        [ready] = until(lambda: manager.received("READY"))
        assert ready.fields["STATUS"] == f"serving on {service.address}"
        until(lambda: len(manager.received("WATCHDOG")) >= 3)
        family = descendants(service.pid)
        assert len(family) > workers - 1, "the embedded store is missing"
        for pid in family:
            assert not variables(pid) & {"NOTIFY_SOCKET", "WATCHDOG_USEC"}, command_line(pid)
        assert service.stop() == 0
        until(lambda: manager.received("STOPPING"))
        assert manager.senders == {service.pid}
        pings = [message.time for message in manager.received("WATCHDOG")]
        assert ready.time < pings[0] < manager.received("STOPPING")[0].time
        assert longest_pause(pings) < manager.watchdog_seconds


@pytest.mark.long
def test_a_blocked_event_loop_fails_liveness_and_the_watchdog_ends_the_service(tmp_path: Path) -> None:
    with (
        ServiceManager(2) as manager,
        Service(data_dir=tmp_path, environment=manager.environment | blocking(300), program=SABOTAGED) as service,
    ):
        assert health(service.address, "liveness") == "SERVING"
        until(lambda: len(manager.received("WATCHDOG")) >= 3, every=0.2)  # longer than its interval
        manager.guard(service.pid)
        block(service.address)
        until(
            lambda: health_command.main(["--address", service.address, "--service", "liveness", "--timeout", "1"]) == 5
        )
        assert manager.fired.wait(20)
        assert service.wait() == -signal.SIGABRT
        assert any("sabotaged.py" in line and "in block" in line for line in service.stderr), service.stderr


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_liveness_and_pings_stop_while_an_event_loop_is_blocked(tmp_path: Path, workers: int) -> None:
    with (
        ServiceManager(1) as manager,
        Service(
            "--workers",
            str(workers),
            data_dir=tmp_path,
            environment=manager.environment | blocking(8),
            program=SABOTAGED,
        ) as service,
    ):
        until(lambda: manager.received("WATCHDOG"))
        caller = block(service.address)
        time.sleep(3)
        # Probes reach either worker: one does not answer, the other reports that not all event loops run.
        command = ["--address", service.address, "--service", "liveness", "--timeout", "0.3"]
        assert [health_command.main(command) for _ in range(8)] == [5] * 8
        caller.join()
        until(lambda: health(service.address, "liveness") == "SERVING")
        pings = len(manager.received("WATCHDOG"))
        until(lambda: len(manager.received("WATCHDOG")) > pings)
        [line] = until(lambda: service.log_lines_with("the event loop was blocked"))
        assert 7.5 < line["seconds"] < 12
        assert line.get("worker") in ({0, 1} if workers > 1 else {None})
        assert longest_pause([message.time for message in manager.received("WATCHDOG")]) > 6


@pytest.mark.long
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_start_is_extended_while_the_store_loads(workers: str) -> None:
    with Store(append_only=True) as store, ServiceManager(1) as manager:
        store.restart_slowly(8)
        until(store.is_loading)
        with Service("--workers", workers, redis_url=store.url, environment=manager.environment) as service:
            extension, *_ = manager.received("EXTEND_TIMEOUT_USEC")
            [ready] = until(lambda: manager.received("READY"))
            assert extension.time < ready.time
            assert int(extension.fields["EXTEND_TIMEOUT_USEC"]) >= 10_000_000
            assert service.stop() == 0


@pytest.mark.long
def test_a_service_manager_that_does_not_listen_or_watches_another_process_changes_nothing(tmp_path: Path) -> None:
    with ServiceManager(0.5) as manager:
        other = {"WATCHDOG_PID": str(os.getpid())}
        with Service(data_dir=tmp_path, environment=manager.environment | other) as service:
            until(lambda: manager.received("READY"))
            time.sleep(1)  # time for some pings
            assert service.stop() == 0
            until(lambda: manager.received("STOPPING"))
            assert not manager.received("WATCHDOG")
    with Service(data_dir=tmp_path, environment=manager.environment) as service:  # its socket is gone
        assert service.stop() == 0


@pytest.mark.long
@pytest.mark.timeout(240)
def test_only_readiness_falls_while_redis_is_down_for_60_s() -> None:
    with (
        Store() as store,
        ServiceManager(2) as manager,
        Service("--workers", "2", redis_url=store.url, environment=manager.environment) as service,
    ):
        until(lambda: manager.received("WATCHDOG"))
        manager.guard(service.pid)
        store.kill()
        until(lambda: health(service.address) == "NOT_SERVING")
        time.sleep(3)  # each worker checks the store for itself
        end, answers = time.monotonic() + 60, set()
        [killed, *_] = (pid for pid in descendants(service.pid) if "spawn_main" in command_line(pid))
        os.kill(killed, signal.SIGKILL)  # its replacement waits for the store too
        while time.monotonic() < end:
            answers.add((health(service.address), health(service.address, "liveness")))
            time.sleep(0.2)
        assert answers == {("NOT_SERVING", "SERVING")}
        store.start()
        until(lambda: service.log_lines_with("the restarted worker process is ready"))
        until(lambda: health(service.address) == "SERVING")
        assert not manager.fired.is_set()
        assert service.running
