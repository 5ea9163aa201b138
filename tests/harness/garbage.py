"""What only the garbage collector can free: objects in reference cycles."""

import gc
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """Turns the garbage collector off, with nothing left for it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def left_over() -> Counter[str]:
    """Returns what is in reference cycles now, by type, frames and coroutines by their function; then frees it."""
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
