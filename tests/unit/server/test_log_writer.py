"""The queue of the log is bounded, and log lines contain tracebacks as text."""

import json
import logging
from collections import deque

import pytest

from userservice_server.observability import log_writer
from userservice_server.observability.log_handler import Line


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> deque[Line]:
    """An empty queue with room for three lines."""
    lines: deque[Line] = deque(maxlen=3)
    monkeypatch.setattr(log_writer, "_waiting", lines)
    monkeypatch.setattr(log_writer, "_MAX_LINES", 3)
    return lines


def test_lines_that_exceed_the_queue_are_counted(waiting: deque[Line]) -> None:
    before = log_writer.dropped_lines()
    for number in range(5):
        log_writer.add_line(0, "INFO", "userservice", f"line {number}", {})
    assert [line[3] for line in waiting] == ["line 2", "line 3", "line 4"]
    assert log_writer.dropped_lines() == before + 2


def test_a_traceback_is_text_before_any_handler_sees_it(waiting: deque[Line]) -> None:
    cause = OSError("the cause")
    caught = (OSError, cause, cause.__traceback__)
    fields = {"name": "asyncio", "levelname": "ERROR", "msg": "failed: %s", "args": ("it",), "exc_info": caught}
    log_writer._Lines().emit(logging.makeLogRecord(fields))
    [line] = waiting
    text = line[4]["exc_info"]
    assert text == "OSError: the cause"
    assert json.loads(log_writer._encoded(*line))["message"] == "failed: it"
