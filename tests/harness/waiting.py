"""Waits for the effects of other processes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(probe: Callable[[], T], within: float = 15, every: float = 0.05) -> T:
    """Calls the probe until its result is true, and returns that result."""
    deadline = time.monotonic() + within
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"{probe.__qualname__} is still {answer!r} after {within} s"
        time.sleep(every)
    return answer
