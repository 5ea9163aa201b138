"""Log lines: JSON on standard error, written by a thread of their own so that a slow reader never stalls calls."""

import json
import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any

import orjson

_WRITE_INTERVAL = 0.05  # seconds; a thread woken for each line would take a third of the time of a single call
_MAX_LINES = 100_000  # that wait to be written; should nobody read them, the oldest are dropped
_OF_EVERY_RECORD = frozenset((*logging.makeLogRecord({}).__dict__, "message", "taskName"))
_formatter = logging.Formatter()

_waiting: deque[tuple[float, str, str, str, dict[str, Any]]] = deque(maxlen=_MAX_LINES)


def add_line(created: float, level: str, logger: str, message: str, fields: dict[str, Any]) -> None:
    """Adds a line to those that are written next.

    The access log comes here directly: past the records of ``logging``, which take three times as long as the line.
    """
    _waiting.append((created, level, logger, message, fields))


def _encoded(created: float, level: str, logger: str, message: str, fields: dict[str, Any]) -> bytes:
    at = datetime.fromtimestamp(created, UTC)
    line = {"time": at, "level": level, "logger": logger, "message": message, **fields}
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half of a surrogate pair, or a number beyond 64 bits
        return json.dumps(line, default=str).encode() + b"\n"


class _Lines(logging.Handler):
    """Makes lines of records."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {name: value for name, value in record.__dict__.items() if name not in _OF_EVERY_RECORD}
        if record.exc_info:
            fields["exc_info"] = _formatter.formatException(record.exc_info)
        add_line(record.created, record.levelname, record.name, record.getMessage(), fields)


def _write_lines() -> None:
    lines = [_encoded(*_waiting.popleft()) for _ in range(len(_waiting))]
    if lines:
        with suppress(OSError, ValueError):  # a full disk or a closed pipe: these lines are lost, later ones may not be
            sys.stderr.buffer.write(b"".join(lines))
            sys.stderr.buffer.flush()


def _write_until(ending: Event) -> None:
    while not ending.wait(_WRITE_INTERVAL):
        _write_lines()
    _write_lines()


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Logs while the block runs, and has written everything when it ends.

    Set up once, before grpc starts: changing loggers later can lock up grpc.aio (grpc/grpc#43421).
    """
    ending = Event()
    writer = Thread(target=_write_until, args=(ending,), name="log", daemon=True)
    writer.start()
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers[:] = [_Lines()]
    # Of libraries only their warnings: their ordinary lines are not written with personal data in mind.
    for library in ("asyncio", "grpc", "redis"):
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
    try:
        yield
    finally:
        ending.set()
        writer.join()
