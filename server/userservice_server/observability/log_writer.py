"""Writes log lines as JSON to standard error, in a separate thread so that a slow reader never delays calls."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any

from userservice_server.observability.dropped_lines import DroppedLines
from userservice_server.observability.json_lines import json_line
from userservice_server.observability.log_handler import HandlerThread, Line
from userservice_server.process.standard_streams import STDERR, write_all

FLUSH_SECONDS = 1.0  # limit for writing the queued lines at shutdown
_WRITE_INTERVAL = 0.05  # seconds; waking the thread for each line would take a third of the time of a single call
_MAX_LINES = 100_000  # queued lines; if standard error is not read, the oldest lines are dropped
_LINES_PER_WRITE = 1000
_OF_EVERY_RECORD = frozenset((*logging.makeLogRecord({}).__dict__, "message", "taskName"))
_formatter = logging.Formatter()
_GRPC_LOGGER = "grpc._cython.cygrpc"

_process_fields: dict[str, int] = {}  # fields of every line of this process
_waiting: deque[Line] = deque(maxlen=_MAX_LINES)
_handlers: list[HandlerThread] = []  # the handler of --log-handler, if there is one
_dropped = DroppedLines()


def dropped_lines() -> int:
    """Returns the number of log lines that were dropped since the process started, also by the handler."""
    return _dropped.total + sum(handler.dropped for handler in _handlers)


def add_line(created: float, level: str, logger: str, message: str, fields: dict[str, Any]) -> None:
    """Queues a line for writing; never blocks.

    The access log calls this function directly, because a record of ``logging`` takes three times as long as the line.
    """
    if len(_waiting) == _MAX_LINES:  # the oldest line is dropped
        _dropped.add(1)
    line = (created, level, logger, message, fields)
    _waiting.append(line)
    for handler in _handlers:
        handler.add(line)


def _encoded(created: float, level: str, logger: str, message: str, fields: dict[str, Any]) -> bytes:
    at = datetime.fromtimestamp(created, UTC)
    return json_line({"time": at, "level": level, "logger": logger, "message": message, **_process_fields, **fields})


class _Lines(logging.Handler):
    """Turns the records of ``logging`` into queued lines."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {name: value for name, value in record.__dict__.items() if name not in _OF_EVERY_RECORD}
        if record.exc_info:
            fields["exc_info"] = _formatter.formatException(record.exc_info)
        add_line(record.created, record.levelname, record.name, record.getMessage(), fields)


def _write_lines() -> None:
    while _waiting:
        lines = [_encoded(*_waiting.popleft()) for _ in range(min(len(_waiting), _LINES_PER_WRITE))]
        if lost := _write(b"".join(lines)):
            _dropped.add(lost)
    if dropped := _dropped.unlogged:
        message = "log lines were dropped: standard error was full or was not read"
        line = (time.time(), "WARNING", "userservice.log", message, {"lines": dropped})
        if not _write(_encoded(*line)):
            _dropped.logged(dropped)
            for handler in _handlers:
                handler.add(line)


def _write(lines: bytes) -> int:
    """Writes lines; returns how many of them a full disk or a closed pipe rejected."""
    left = write_all(STDERR, lines)
    return lines.count(b"\n", len(lines) - left)


def _write_until(ending: Event) -> None:
    while not ending.wait(_WRITE_INTERVAL):
        _write_lines()
    _write_lines()


_UNWANTED_OF_GRPC = (
    "ExecuteBatchError raised",  # for each response that a lost connection could not send
    "Invalid encoding on",  # contains a header that is not UTF-8, which can be a credential
)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Rejects records of grpc that any caller can cause, each with a traceback."""
    return not str(record.msg).startswith(_UNWANTED_OF_GRPC)


@contextmanager
def logging_to_stderr(
    level: str,
    flush_seconds: Callable[[], float] = lambda: FLUSH_SECONDS,
    worker: int | None = None,
    handler: logging.Handler | None = None,
) -> Iterator[None]:
    """Logs to standard error, and to a handler, during the block; at its end, writes the queued lines within a limit.

    Use it once, before grpc starts: changing loggers later can deadlock grpc.aio (grpc/grpc#43421).

    Args:
        level: the lowest level that is logged.
        flush_seconds: called at the end; returns the limit in seconds for writing the queued lines.
        worker: the slot of this worker process, for the field ``worker`` of all its lines.
        handler: receives the same lines.
    """
    if worker is not None:
        _process_fields["worker"] = worker
    if handler is not None:
        _handlers.append(HandlerThread(handler, _process_fields))
    ending = Event()
    writer = Thread(target=_write_until, args=(ending,), name="log", daemon=True)
    writer.start()
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers[:] = [_Lines()]
    # Libraries log warnings and errors only, because their other lines may contain personal data.
    for library in ("asyncio", "grpc", "redis"):
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
    logging.getLogger(_GRPC_LOGGER).addFilter(_is_wanted)
    try:
        yield
    finally:
        ending.set()
        writer.join(flush_seconds())
        for running in _handlers:
            running.close(flush_seconds())
