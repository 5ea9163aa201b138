"""The process exits within --grace plus 1 s, even if threads, event loop or pipes are blocked."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.connections import health
from harness.ports import free_port
from harness.programs import descendants, wait_until_gone
from harness.services import Service, clean_environment
from harness.stores import Store
from harness.waiting import until

STUCK = Path(__file__).parents[1] / "harness" / "stuck.py"
LOAD = 4.0  # seconds that a busy machine may add


@pytest.fixture(scope="module")
def a_store() -> Iterator[Store]:
    with Store(port=0) as store:
        yield store


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    """Returns both ends of a full pipe, like one whose reader has stopped."""
    reader, writer = os.pipe()
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    fcntl.fcntl(writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    for size in (65536, 1):
        try:
            while True:
                os.write(writer, b"x" * size)
        except BlockingIOError:
            pass
    fcntl.fcntl(writer, fcntl.F_SETFL, flags)
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("unread", "workers"),
    [
        ("stdout", "1"),
        pytest.param("stderr", "1", marks=pytest.mark.long),
        pytest.param("stdout", "2", marks=pytest.mark.long),
        ("stderr", "2"),
    ],
)
@pytest.mark.long
def test_a_pipe_that_is_not_read_delays_neither_calls_nor_the_exit(
    a_store: Store, full_pipe: tuple[int, int], unread: str, workers: str
) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "userservice", "serve", "--listen", address, "--workers", workers, "--grace", "20"]
    descriptors = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, unread: full_pipe[1]}
    with subprocess.Popen(
        [*command, "--redis-url", a_store.url],
        env=clean_environment(),
        start_new_session=True,
        stdout=descriptors["stdout"],
        stderr=descriptors["stderr"],
    ) as service:
        try:
            until(lambda: _health(address) == "SERVING", within=30)
            started = time.monotonic()
            service.send_signal(signal.SIGTERM)
            assert service.wait(60) == 0
            assert time.monotonic() - started < 2 + LOAD, "it waited for the reader"
        finally:
            service.kill()


def _health(address: str) -> str:
    try:
        return health(address)
    except Exception as error:  # noqa: BLE001 - not yet
        return type(error).__name__


def test_a_start_that_fails_does_not_wait_for_a_reader_of_its_error(full_pipe: tuple[int, int]) -> None:
    command = [sys.executable, "-m", "userservice", "serve", "--listen", "nonsense"]
    assert subprocess.run(command, stderr=full_pipe[1], timeout=30, check=False).returncode == 2


@pytest.mark.parametrize(
    ("where", "workers"),
    [
        ("event loop", "1"),
        pytest.param("event loop", "2", marks=pytest.mark.long),
        pytest.param("awaited", "1", marks=pytest.mark.long),
    ],
)
def test_blocked_work_is_cut_off_one_second_after_the_grace_period(a_store: Store, where: str, workers: str) -> None:
    with Service(
        "--grace", "0", "--workers", workers, redis_url=a_store.url, program=[STUCK], environment={"WHERE": where}
    ) as service:
        family = descendants(service.pid)
        started = time.monotonic()
        assert service.stop(within=15) == 0
        assert time.monotonic() - started < 1 + LOAD
        for pid in family:
            wait_until_gone(pid)
        if workers == "1":
            assert service.log[-1]["message"] == "shutdown took too long; exiting now"


@pytest.mark.parametrize("where", ["executor", "thread"])
def test_running_threads_do_not_delay_the_exit(a_store: Store, where: str) -> None:
    with Service("--grace", "20", redis_url=a_store.url, program=[STUCK], environment={"WHERE": where}) as service:
        started = time.monotonic()
        assert service.stop(within=60) == 0
        assert time.monotonic() - started < 2 + LOAD


def test_the_embedded_store_is_stopped_in_order_even_if_the_service_does_not_end(tmp_path: Path) -> None:
    with Service("--grace", "0", data_dir=tmp_path, program=[STUCK], environment={"WHERE": "event loop"}) as service:
        store = service.store_pid
        os.kill(store, signal.SIGSTOP)
        service.send(signal.SIGTERM)
        service.wait_for("stderr", "shutdown took too long")
        time.sleep(0.3)
        assert service.running, "it did not wait for its store"
        os.kill(store, signal.SIGCONT)
        assert service.wait(60) == 0
        wait_until_gone(store)
    assert not (tmp_path / "store.sock").exists()
    assert "bye bye" in (tmp_path / "store.log").read_text()


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_a_second_signal_ends_the_process_immediately(a_store: Store, workers: str) -> None:
    with Service(
        "--grace", "100", "--workers", workers, redis_url=a_store.url, program=[STUCK], environment={"WHERE": "awaited"}
    ) as service:
        family = descendants(service.pid)
        service.send(signal.SIGTERM)
        service.wait_for("stderr", '"shutting down"')
        service.send(signal.SIGINT)
        time.sleep(1.2)  # earlier signals count as the same stop
        assert service.running
        assert service.stop(within=15) == 0
        for pid in family:
            wait_until_gone(pid)


DROPPING = """
import time
from userservice_server.observability.log_writer import add_line, logging_to_stderr
with logging_to_stderr("info"):
    for number in range(150_000):
        add_line(time.time(), "INFO", "test", "line", {"number": number})
    print("added", flush=True)
    input()
"""


def test_the_number_of_dropped_log_lines_is_logged() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DROPPING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdin
        assert program.stdout
        assert program.stderr
        assert program.stdout.readline() == b"added\n"
        written = iter(program.stderr.readline, b"")
        lines, dropped = 0, 0
        for line in written:
            lines += b'"line"' in line
            if b"log lines were dropped" in line:
                dropped = int(line.rpartition(b":")[2].rstrip(b"}\n"))
                break
        program.stdin.close()
    assert dropped > 10_000
    assert lines + dropped == 150_000
