"""Log lines: JSON on standard error, written by a thread of their own so that a slow reader never stalls calls."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue

from pythonjsonlogger.json import JsonFormatter

_FIELDS = {"levelname": "level", "name": "logger", "message": "message"}


class _Queue(QueueHandler):
    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # stays in this process: the formatter can have it as it is


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Logs while the block runs, and has written everything when it ends.

    Set up once, before grpc starts: changing loggers later can lock up grpc.aio (grpc/grpc#43421).
    """
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=_FIELDS, timestamp="time"))
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    listener = QueueListener(queue, output)
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers[:] = [_Queue(queue)]
    # Of libraries only their warnings: their ordinary lines are not written with personal data in mind.
    for library in ("asyncio", "grpc", "redis"):
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
    listener.start()
    try:
        yield
    finally:
        listener.stop()
