"""Defines the events of the store, so that the store does not depend on its observer, the metrics.

A store without an observer measures nothing.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

MEASURED = (
    *("add", "get", "batch_get", "cuts", "replace", "delete", "import_open", "import", "import_read", "range"),
    *("joint_ends", "joint_range", "find", "expired", "revoke", "feed_end", "feed_read"),
)
"""Values of ``script`` in ``replied``: the scripts of calls, and ``range`` for the read of a range of records."""


class StoreEvents(Protocol):
    """Observes a store. The store calls these methods in its event loop, so they must not wait."""

    def replied(self, script: str, seconds: float) -> None:
        """A script was answered.

        Args:
            script: the name of the script, one of MEASURED.
            seconds: the time from the command to its reply, including the time that the command waited for its batch.
        """

    def failed(self, script: str, seconds: float, error: BaseException) -> None:
        """A script was not answered: it failed, or its caller was cancelled.

        Args:
            script: its name, one of MEASURED.
            seconds: the time since the command.
            error: the reason.
        """

    def batch_sent(self, commands: int) -> None:
        """A batch of commands was sent in one write."""

    def reconnected(self) -> None:
        """A connection has replaced another one."""

    def conflicted(self) -> None:
        """A compare-and-set found another record than expected; the write is repeated."""

    def replayed(self) -> None:
        """A write was answered from the idempotency record of an earlier request."""

    def availability_changed(self, *, is_up: bool) -> None:
        """The store became available, or unavailable."""


def combined(observers: Sequence[StoreEvents]) -> StoreEvents | None:
    """Returns an observer that passes each event to all of ``observers``; None if there are none."""
    if not observers:
        return None
    return observers[0] if len(observers) == 1 else _Combined(observers)


class _Combined:
    def __init__(self, observers: Sequence[StoreEvents]) -> None:
        self._observers = observers

    def _tell(self, tell: Callable[[StoreEvents], None]) -> None:
        for observer in self._observers:
            tell(observer)

    def replied(self, script: str, seconds: float) -> None:
        for observer in self._observers:
            observer.replied(script, seconds)

    def failed(self, script: str, seconds: float, error: BaseException) -> None:
        self._tell(lambda observer: observer.failed(script, seconds, error))

    def batch_sent(self, commands: int) -> None:
        for observer in self._observers:
            observer.batch_sent(commands)

    def reconnected(self) -> None:
        self._tell(lambda observer: observer.reconnected())

    def conflicted(self) -> None:
        self._tell(lambda observer: observer.conflicted())

    def replayed(self) -> None:
        self._tell(lambda observer: observer.replayed())

    def availability_changed(self, *, is_up: bool) -> None:
        self._tell(lambda observer: observer.availability_changed(is_up=is_up))
