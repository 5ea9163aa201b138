"""Log lines: JSON on standard error, written by a thread of their own so that a slow reader never stalls calls."""

import json
import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread

_WRITE_INTERVAL = 0.05  # seconds; a thread woken for each line would take a third of the time of a single call
_MAX_LINES = 100_000  # that wait to be written; should nobody read them, the oldest are dropped
_OF_EVERY_RECORD = frozenset((*logging.makeLogRecord({}).__dict__, "message", "taskName"))


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger and message, then what the call gave as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: value for name, value in record.__dict__.items() if name not in _OF_EVERY_RECORD})
        if record.exc_info:
            line["exc_info"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Writer(logging.Handler):
    """Collects lines, and writes them several times a second."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_JsonLines())
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self._ending = Event()
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record) + "\n")

    def close(self) -> None:
        """Returns when all lines are written."""
        self._ending.set()
        self._thread.join()
        super().close()

    def _run(self) -> None:
        while not self._ending.wait(_WRITE_INTERVAL):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if lines:
            sys.stderr.write("".join(lines))
            sys.stderr.flush()


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Logs while the block runs, and has written everything when it ends.

    Set up once, before grpc starts: changing loggers later can lock up grpc.aio (grpc/grpc#43421).
    """
    # What no line shows need not be found out for each of them ("Optimization" in Python's logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - the documented way, all the same
    writer = _Writer()
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers[:] = [writer]
    # Of libraries only their warnings: their ordinary lines are not written with personal data in mind.
    for library in ("asyncio", "grpc", "redis"):
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
    try:
        yield
    finally:
        writer.close()
