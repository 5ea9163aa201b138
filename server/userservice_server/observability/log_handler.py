"""Passes the lines of the log to a handler of the standard library's ``logging``, such as Sentry's or OpenTelemetry's.

The handler runs in a thread of its own. A slow handler therefore delays neither calls nor the lines on standard error.
"""

import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from threading import Event, Thread, current_thread
from typing import Any

from userservice_server.config import ConfigError
from userservice_server.observability.dropped_lines import DroppedLines

Line = tuple[float, str, str, str, dict[str, Any]]
"""A line of the log: Unix time, level, name of the logger, message, fields."""

_INTERVAL = 0.05  # seconds, as for standard error
_MAX_LINES = 10_000  # waiting lines; if the handler is too slow, the oldest lines are dropped
_LOG_SECONDS = 60.0  # between two log lines about dropped lines
_LEVELS = logging.getLevelNamesMapping()
# Lines of the libraries by which handlers send their data. Passing them to the handler could cause further such lines.
_SENDING_LIBRARIES = frozenset(("httpcore", "httpx", "opentelemetry", "requests", "sentry_sdk", "urllib3"))
_Context = Callable[[Mapping[str, Any]], AbstractContextManager[object]]

logger = logging.getLogger("userservice.log")


def load_handler(reference: str | None) -> logging.Handler | None:
    """Calls the function that creates the handler.

    Args:
        reference: the value of ``--log-handler``, MODULE:FUNCTION; None: there is no handler.

    Raises:
        ConfigError: the module cannot be imported, or the function fails or returns another object.
    """
    if reference is None:
        return None
    module, _, function = reference.partition(":")
    try:
        handler = getattr(import_module(module), function)()
    except Exception as error:
        raise ConfigError(f"--log-handler {reference} failed: {_described(error)}") from error
    if not isinstance(handler, logging.Handler):
        raise ConfigError(f"--log-handler {reference} must return a logging.Handler, not {type(handler).__name__}")
    return handler


def _described(error: Exception) -> str:
    if isinstance(error, ImportError | AttributeError):
        return f"{type(error).__name__}: {error}"
    # Without its text, which can contain a secret, such as a key in the URL of a collector.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.filename}:{frame.lineno}"


class HandlerThread:
    """Passes lines to a handler, in a separate thread that starts when the object is created.

    Lines that the handler's own libraries log are not passed to it.

    Args:
        handler: the handler; it does not receive lines below its own level.
        process_fields: fields of every line of this process.
    """

    def __init__(self, handler: logging.Handler, process_fields: Mapping[str, int]) -> None:
        self._handler = handler
        handler.handleError = self._count_failure  # type: ignore[method-assign] # by default it prints to stderr
        self._process_fields = process_fields
        self._own_libraries = _SENDING_LIBRARIES | {type(handler).__module__.partition(".")[0]}
        self._span_of: _Context = _span_context()
        self._waiting: deque[Line] = deque(maxlen=_MAX_LINES)
        self._dropped = DroppedLines()
        self._log_at = 0.0
        self._ending = Event()
        self._thread = Thread(target=self._run, name="log handler", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """The number of lines that the handler did not receive, or failed to handle."""
        return self._dropped.total

    def add(self, line: Line) -> None:
        """Queues a line; never blocks."""
        if current_thread() is self._thread or line[2].partition(".")[0] in self._own_libraries:
            return
        if len(self._waiting) == _MAX_LINES:  # the oldest line is dropped
            self._dropped.add(1)
        self._waiting.append(line)

    def close(self, within: float) -> None:
        """Passes the waiting lines on and closes the handler; gives up after ``within`` seconds."""
        self._ending.set()
        self._thread.join(within)

    def _run(self) -> None:
        while not self._ending.wait(_INTERVAL):
            self._handle_lines()
        self._handle_lines()
        self._handler.flush()
        self._handler.close()

    def _handle_lines(self) -> None:
        while self._waiting:
            self._handle(_record(self._waiting.popleft(), self._process_fields))
        if (lost := self._dropped.unlogged) and time.monotonic() >= self._log_at:
            self._log_at = time.monotonic() + _LOG_SECONDS
            self._dropped.logged(lost)
            logger.warning(
                "the handler of --log-handler is too slow or fails; lines were dropped", extra={"lines": lost}
            )

    def _handle(self, record: logging.LogRecord) -> None:
        if record.levelno < self._handler.level:
            return
        try:
            with self._span_of(record.__dict__):
                self._handler.handle(record)
        except Exception:  # noqa: BLE001 - an error of the handler must not end the thread
            self._dropped.add(1)

    def _count_failure(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - as the method that it replaces
        """Replaces ``handleError`` of the handler, which handlers call for their own errors."""
        self._dropped.add(1)


def _record(line: Line, process_fields: Mapping[str, int]) -> logging.LogRecord:
    created, level, name, message, fields = line
    record = logging.LogRecord(name, _LEVELS.get(level, logging.INFO), "", 0, message, None, None)
    record.created, record.msecs = created, float(int(created % 1 * 1000))
    record.__dict__.update(process_fields)
    record.__dict__.update(fields)
    if text := fields.get("exc_info"):
        # As text, like on standard error: handlers would also read the variables of frames, which contain user data.
        record.exc_info, record.exc_text = None, text
        record.__dict__["traceback"] = text  # for handlers that send only the additional fields
    return record


def _span_context() -> _Context:
    """Returns a function that makes the span of a line current, if the handler's program uses OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return lambda _fields: nullcontext()
    from userservice_server.observability.tracing.line_context import span_of_line  # noqa: PLC0415 - needs its API

    return span_of_line
