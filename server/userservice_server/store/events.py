"""The events of the store that others can observe, such as metrics and traces. The store itself does not know them.

A store without an observer has ``None`` in its place and measures nothing.
"""

from typing import Protocol

MEASURED = ("add", "get", "batch_get", "replace", "delete", "range")
"""What ``replied`` reports: the scripts of calls, and ``range`` for the read of a range of records."""


class StoreEvents(Protocol):
    """Observes a store. The store calls these methods in its event loop, so they must not wait."""

    def replied(self, script: str, seconds: float) -> None:
        """A script was answered.

        Args:
            script: its name, one of MEASURED.
            seconds: the time from the command to its reply, the time in the batch included.
        """

    def batch_sent(self, commands: int) -> None:
        """A batch of commands was sent in one write."""

    def reconnected(self) -> None:
        """A connection has replaced another one."""

    def conflicted(self) -> None:
        """A compare-and-set met another record than expected; the write is repeated."""

    def replayed(self) -> None:
        """A write was answered from the idempotency record of an earlier request."""

    def availability_changed(self, *, is_up: bool) -> None:
        """The store became available, or unavailable."""
