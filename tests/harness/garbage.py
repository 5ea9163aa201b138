"""Finds objects in reference cycles, which only the garbage collector can free."""

import gc
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """Runs the garbage collector, and turns it off."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def left_over() -> Counter[str]:
    """Returns the objects in reference cycles by type (frames and coroutines by function), and frees them."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = Counter(_name(thing) for thing in gc.garbage)
    gc.garbage.clear()
    gc.collect()
    return found


def _name(thing: object) -> str:
    if isinstance(thing, types.FrameType):
        return f"frame {thing.f_code.co_qualname}" if "userservice" in thing.f_code.co_filename else "frame"
    return type(thing).__name__
