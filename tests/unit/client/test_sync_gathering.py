"""The blocking version of the gathering: the thread of one request sends the call of others."""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from harness.waiting import until

from userservice import _gathering_limits, _sync_gathering
from userservice._sync_gathering import Gathering


class Service:
    """The calls of a gathering. The call with the name `first` waits until it is released."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], float, int]] = []
        self.released = threading.Event()
        self.fails_in: int | None = None
        self.gathering: Gathering[str] = Gathering(self.send)
        self.threads: dict[str, int] = {}

    def send(self, names: Sequence[str], timeout: float) -> Mapping[str, str]:
        self.calls.append(([*names], timeout, threading.get_ident()))
        if names[0] == "first":
            self.released.wait(10)
        elif self.fails_in == threading.get_ident():
            raise KeyboardInterrupt
        return {name: name.upper() for name in names}

    def outcome(self, name: str, seconds: float = 10) -> str:
        self.threads[name] = threading.get_ident()
        return self.gathering.outcome(name, time.monotonic() + seconds)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sync_gathering, "PATIENCE", 60.0)


def start(service: Service, pool: ThreadPoolExecutor, requests: Mapping[str, float]) -> list[Future[str]]:
    """Starts the requests while a first call runs, and ends this call once they wait."""
    first = pool.submit(service.outcome, "first")
    until(lambda: service.calls)
    started = []
    for name, seconds in requests.items():
        started.append(pool.submit(service.outcome, name, seconds))
        until(lambda: len(service.gathering._waiting) == len(started))
    service.released.set()
    assert first.result(10) == "FIRST"
    return started


def test_the_request_with_the_latest_deadline_sends_the_call() -> None:
    service = Service()
    with ThreadPoolExecutor(4) as pool:
        started = start(service, pool, {"a": 20, "b": 40, "c": 30})
        assert [each.result(10) for each in started] == ["A", "B", "C"]
    names, timeout, thread = service.calls[1]
    assert names == ["a", "b", "c"]
    assert 30 < timeout <= 40
    assert thread == service.threads["b"]


def test_an_exception_in_the_sending_thread_has_no_effect_on_other_requests() -> None:
    """For example Ctrl-C, which only interrupts the main thread."""
    service = Service()
    with ThreadPoolExecutor(4) as pool:
        release = service.released.set

        def fail_then_release() -> None:
            service.fails_in = service.threads["b"]
            release()

        service.released.set = fail_then_release  # type: ignore[method-assign]
        started = start(service, pool, {"a": 20, "b": 40, "c": 30})
        assert isinstance(started[1].exception(10), KeyboardInterrupt)
        assert [started[0].result(10), started[2].result(10)] == ["A", "C"]
    assert [names for names, _, _ in service.calls] == [["first"], ["a", "b", "c"], ["a", "c"]]
    assert service.gathering._calls == set()


def test_an_interrupted_wait_leaves_nothing_behind() -> None:
    service = Service()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(service.outcome, "first")
        until(lambda: service.calls)
        with pytest.raises(TimeoutError):
            service.outcome("late", 0.1)
        assert not service.gathering._waiting
        service.released.set()
        assert first.result(10) == "FIRST"
    assert service.outcome("next") == "NEXT"
    assert [names for names, _, _ in service.calls] == [["first"], ["next"]]


@pytest.mark.parametrize("interrupted", ["wait", "make"])
def test_a_thread_that_is_interrupted_before_it_sends_passes_the_call_on(
    monkeypatch: pytest.MonkeyPatch, interrupted: str
) -> None:
    service = Service()
    with ThreadPoolExecutor(4) as pool:
        method: Callable[..., None] = getattr(Gathering, f"_{interrupted}")

        def interrupt(gathering: Gathering[str], *arguments: object) -> None:
            if interrupted == "wait":
                method(gathering, *arguments)
            if threading.get_ident() == service.threads.get("b"):
                raise KeyboardInterrupt
            if interrupted == "make":
                method(gathering, *arguments)

        monkeypatch.setattr(Gathering, f"_{interrupted}", interrupt)
        started = start(service, pool, {"a": 20, "b": 40, "c": 30})
        assert isinstance(started[1].exception(10), KeyboardInterrupt)
        assert [started[0].result(10), started[2].result(10)] == ["A", "C"]
    assert [names for names, _, _ in service.calls] == [["first"], ["a", "c"]]


def test_the_typescript_client_has_the_same_limits() -> None:
    source = Path("client/typescript/src/gathering.ts").read_text()
    constants = re.findall(r"^const (MOST_\w+|PATIENCE_MS) = (\d+);", source, re.MULTILINE)
    assert {name: int(value) for name, value in constants} == {
        "MOST_NAMES": _gathering_limits.MOST_NAMES,
        "MOST_RUNNING": _gathering_limits.MOST_RUNNING,
        "PATIENCE_MS": 1000 * _gathering_limits.PATIENCE,
    }
