"""Starts a coroutine at once, so that other work can be done before its result is awaited."""

from collections.abc import Coroutine, Generator
from typing import Any


class Started:
    """Runs a coroutine at once up to its first wait, and the rest when this object is awaited, which must follow.

    A task would start only in the next turn of the event loop.

    Raises:
        BaseException: the exception that the coroutine raises before its first wait.
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
        """Waits until the coroutine has ended; a cancellation is passed on to the coroutine."""
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
            del waits_for  # breaks a cycle: a failed future keeps its exception, which keeps this frame
