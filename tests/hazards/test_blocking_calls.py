"""grpcio's blocking stubs: what ends a call that waits, and which threads and connections remain."""

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.services import Service
from harness.waiting import until

from userservice import DeadlineExceededError, ManagerClosedError, ManagerUnusableError, SyncUserManager
from userservice._watchdog import Alarm, _Watchdog


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def ended_streams(service: Service) -> int:
    return len(service.log_lines_with("ListUsersChunked"))


def read_a_user(manager: SyncUserManager) -> object:
    return manager.get("ada")


def read_a_chunk(manager: SyncUserManager) -> object:
    return next(manager.list_chunked())


CALLS = pytest.mark.parametrize("call", [read_a_user, read_a_chunk])


@CALLS
def test_a_deadline_ends_a_call_that_waits(silent: str, call: Callable[[SyncUserManager], object]) -> None:
    with SyncUserManager(silent, timeout=0.5) as manager:
        started = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            call(manager)
        assert 0.4 < time.monotonic() - started < 5


@CALLS
def test_closing_ends_calls_of_other_threads(silent: str, call: Callable[[SyncUserManager], object]) -> None:
    manager, errors = SyncUserManager(silent, timeout=60), list[ManagerClosedError]()

    def wait() -> None:
        try:
            call(manager)
        except ManagerClosedError as error:
            errors.append(error)

    caller = threading.Thread(target=wait, daemon=True)
    caller.start()
    time.sleep(0.3)
    manager.close()
    manager.close()
    caller.join(10)
    assert not caller.is_alive()
    # "the manager is closed" would mean that the call was retried.
    assert [error.message for error in errors] == ["the manager was closed during the call"]
    with pytest.raises(ManagerClosedError):
        call(manager)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lets SIGINT raise KeyboardInterrupt, which a process of pytest-xdist ignores."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@CALLS
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_a_call_that_waits(silent: str, call: Callable[[SyncUserManager], object]) -> None:
    with SyncUserManager(silent, timeout=60) as manager:
        interrupt = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
        interrupt.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            call(manager)
        assert time.monotonic() - started < 10


def test_a_signal_handler_may_close_the_manager_of_a_running_call(silent: str) -> None:
    manager = SyncUserManager(silent, timeout=60)
    previous = signal.signal(signal.SIGUSR1, lambda *_: manager.close())
    try:
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGUSR1]).start()
        with pytest.raises(ManagerClosedError):
            manager.get("ada")
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_the_pauses_of_the_reader_do_not_count(large_service: Service) -> None:
    with SyncUserManager(large_service.address) as manager:
        before = ended_streams(large_service)
        chunks = manager.list_chunked(chunk_size=1, timeout=0.5)
        for _ in range(3):
            assert len(next(chunks)) == 1
            time.sleep(0.7)
        chunks.close()
        until(lambda: ended_streams(large_service) > before, 10)
    # An alarm that rings between two reads would end the stream, and the reader would resume it with another call.
    assert ended_streams(large_service) == before + 1


def test_a_unary_call_starts_no_thread(large_service: Service) -> None:
    before = set(threading.enumerate())
    with SyncUserManager(large_service.address) as manager:
        manager.get("u1")
        assert set(threading.enumerate()) <= before  # threads of earlier tests may end meanwhile


def sockets() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(descriptor.readlink()))
    return {name for name in found if name.startswith("socket:")}


def test_a_forgotten_manager_closes_its_connection(large_service: Service) -> None:
    before = sockets()
    manager = SyncUserManager(large_service.address)
    manager.get("u1")
    opened = sockets() - before
    assert opened
    del manager
    gc.collect()
    until(lambda: not opened & sockets(), 10)


def test_a_program_ends_though_a_daemon_thread_waits_for_an_answer(silent: str) -> None:
    program = f"""
        import contextlib, threading, time
        from userservice import DeadlineExceededError, SyncUserManager
        manager = SyncUserManager("{silent}", timeout=60)
        with contextlib.suppress(DeadlineExceededError):
            next(manager.list_chunked(timeout=0.2))  # its deadline starts a thread
        for call in (lambda: manager.get("ada"), lambda: next(manager.list_chunked())):
            threading.Thread(target=call, daemon=True).start()
        time.sleep(0.5)
        print("end")
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], timeout=30, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "end\n"), ended.stderr


def test_a_watchdog_that_cannot_start_its_thread_says_so(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch, SyncUserManager(silent) as manager:
        patch.setattr("userservice._watchdog._watchdog", _Watchdog())
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(ManagerUnusableError, match="can't start new thread"):
            next(manager.list_chunked())


def test_a_shorter_deadline_wakes_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userservice._watchdog._watchdog", _Watchdog())
    rang = threading.Event()
    late, early = Alarm(lambda: None), Alarm(rang.set)
    late.start(time.monotonic() + 60, 60)
    time.sleep(0.2)
    early.start(time.monotonic() + 0.2, 0.2)
    assert rang.wait(10)
    late.stop()
    early.stop()
