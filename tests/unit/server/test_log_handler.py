"""The handler of --log-handler receives the log lines, and can neither delay nor break the log."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness.waiting import until

from userservice_server.config import ConfigError
from userservice_server.config.settings import Observability
from userservice_server.observability import log_writer
from userservice_server.observability.log_handler import HandlerThread, Line, load_handler


def line(number: int = 0, level: str = "INFO", name: str = "userservice", **fields: Any) -> Line:
    return (1_700_000_000.25, level, name, f"100 % of line {number}", fields)


class Recorder(logging.Handler):
    """Calls a function for each record, and keeps the records for which it returned."""

    def __init__(self, action: Callable[[], object] = lambda: None, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.action = action
        self.records: list[logging.LogRecord] = []
        self.threads: set[threading.Thread] = set()
        self.is_closed = False

    def emit(self, record: logging.LogRecord) -> None:
        self.threads.add(threading.current_thread())
        self.action()
        self.records.append(record)

    def close(self) -> None:
        self.is_closed = True
        super().close()


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_record_has_the_fields_of_its_line_and_no_frames() -> None:
    handler = Recorder()
    thread = HandlerThread(handler, {"worker": 3})
    thread.add(line(1, "ERROR", method="GetUser", exc_info="Traceback …"))
    thread.close(5)
    [record] = handler.records
    assert (record.getMessage(), record.levelno, record.created) == ("100 % of line 1", logging.ERROR, 1_700_000_000.25)
    assert (record.__dict__["worker"], record.__dict__["method"]) == (3, "GetUser")
    assert (record.exc_info, record.exc_text, record.__dict__["traceback"]) == (None, "Traceback …", "Traceback …")
    assert handler.is_closed
    assert threading.current_thread() not in handler.threads, "a slow handler must not delay calls"


def test_the_level_of_the_handler_applies() -> None:
    handler = Recorder(level=logging.ERROR)
    thread = HandlerThread(handler, {})
    for level in ("INFO", "WARNING", "ERROR"):
        thread.add(line(level=level))
    thread.close(5)
    assert [record.levelname for record in handler.records] == ["ERROR"]


def test_lines_of_the_handler_itself_are_not_passed_to_it() -> None:
    handler = Recorder()
    handler.action = lambda: thread.add(line(2))
    thread = HandlerThread(handler, {})
    for name in ("urllib3.connectionpool", f"{Recorder.__module__.partition('.')[0]}.export", "userservice"):
        thread.add(line(1, name=name))
    thread.close(5)
    assert [(record.name, record.getMessage()) for record in handler.records] == [("userservice", "100 % of line 1")]


def test_a_blocked_handler_blocks_nothing_and_loses_the_oldest_lines(
    monkeypatch: pytest.MonkeyPatch, release: threading.Event
) -> None:
    monkeypatch.setattr("userservice_server.observability.log_handler._MAX_LINES", 10)
    handler = Recorder(release.wait)
    thread = HandlerThread(handler, {})
    thread.add(line(0))
    until(lambda: not thread._waiting)
    for number in range(1, 101):
        thread.add(line(number))
    assert thread.dropped == 90
    thread.close(0.01)
    assert not handler.records
    release.set()
    until(lambda: len(handler.records) == 11)
    assert handler.records[1].getMessage() == "100 % of line 91"


@pytest.mark.parametrize("is_caught", [False, True])
def test_lines_that_the_handler_fails_to_handle_are_counted(
    is_caught: bool,  # noqa: FBT001
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing(Recorder):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                raise OSError("secret")  # noqa: TRY301 - handled below
            except OSError:
                if not is_caught:
                    raise
                self.handleError(record)  # as handlers of the standard library do

    thread, before = HandlerThread(Failing(), {}), log_writer.dropped_lines()
    monkeypatch.setattr(log_writer, "_handlers", [thread])
    for number in range(5):
        thread.add(line(number))
    thread.close(5)
    assert thread.dropped == 5
    assert log_writer.dropped_lines() == before + 5, "the metric counts these lines, too"
    assert sum(record.__dict__["lines"] for record in caplog.records) == 5
    assert "secret" not in caplog.text + capfd.readouterr().err


@pytest.mark.parametrize("reference", ["", "logs", "logs:", ":create", "logs:create()", "a b:c", "logs:1", "logs.:x"])
def test_a_reference_names_a_module_and_a_function(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"^--log-handler must be MODULE:FUNCTION"):
        Observability(log_handler=reference)


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("no_such_module:create", "failed: ModuleNotFoundError: No module named 'no_such_module'"),
        ("logging:no_such_function", "failed: AttributeError: module 'logging' has no attribute 'no_such_function'"),
        ("logging:getLogger", "must return a logging.Handler, not RootLogger"),
        ("json:loads", r"failed: TypeError at .*:\d+$"),
    ],
)
def test_a_handler_that_cannot_be_created_is_one_clear_line(reference: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--log-handler {reference} {text}"):
        load_handler(reference)
