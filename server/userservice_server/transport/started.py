"""A coroutine that is on its way while something else is done."""

from collections.abc import Coroutine, Generator
from typing import Any


class Started:
    """Runs a coroutine up to its first wait at once; the rest is run when this is awaited, which has to follow.

    A task would begin only in the next turn of the event loop.

    Raises:
        BaseException: what the coroutine raises before its first wait.
    """

    __slots__ = ("_coroutine", "_is_done", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._coroutine = coroutine
        self._is_done = False
        self._waits_for: Any = None
        try:
            self._waits_for = coroutine.send(None)
        except StopIteration:
            self._is_done = True

    def __await__(self) -> Generator[Any, Any, None]:
        """Waits for the coroutine's end; a cancellation reaches what it waits for."""
        if self._is_done:
            return
        waits_for, self._waits_for = self._waits_for, None
        try:
            while True:
                try:
                    value = yield waits_for
                except BaseException as error:  # noqa: BLE001 - passed on to the coroutine
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(value)
        except StopIteration:
            return
        finally:
            del waits_for  # a failed future keeps its exception, and the exception this frame: a reference cycle
