"""Counts dropped log lines."""

from threading import Lock


class DroppedLines:
    """Counts dropped lines; any thread may add lines.

    Attributes:
        total: number of lines since the process started.
    """

    def __init__(self) -> None:
        self.total = 0
        self._lock = Lock()
        self._logged = 0

    def add(self, lines: int) -> None:
        """Counts dropped lines."""
        with self._lock:
            self.total += lines

    @property
    def unlogged(self) -> int:
        """The number of dropped lines that were not reported in the log yet."""
        return self.total - self._logged

    def logged(self, lines: int) -> None:
        """Called when a log line has reported ``lines`` dropped lines."""
        self._logged += lines
