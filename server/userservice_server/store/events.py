"""Defines the events of the store, so that the store does not depend on its observer, the metrics.

A store without an observer measures nothing.
"""

from typing import Protocol

MEASURED = ("add", "get", "batch_get", "replace", "delete", "range")
"""Values of ``script`` in ``replied``: the scripts of calls, and ``range`` for the read of a range of records."""


class StoreEvents(Protocol):
    """Observes a store. The store calls these methods in its event loop, so they must not wait."""

    def replied(self, script: str, seconds: float) -> None:
        """A script was answered.

        Args:
            script: the name of the script, one of MEASURED.
            seconds: the time from the command to its reply, including the time that the command waited for its batch.
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
