"""Waiting for something that another process will do."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(probe: Callable[[], T], within: float = 15, every: float = 0.05) -> T:
    """Returns the first true answer of the probe."""
    deadline = time.monotonic() + within
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"{probe.__qualname__} is still {answer!r} after {within} s"
        time.sleep(every)
    return answer
