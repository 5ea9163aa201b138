"""A progress bar on standard error, if it is a terminal."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any, Self


class Progress:
    """A progress bar. Shows nothing if standard error is not a terminal, or tqdm is not installed.

    Args:
        unit: The plural of what is counted.
        start: The number that is already done.
    """

    def __init__(self, unit: str, start: int = 0) -> None:
        self._bar: Any = None
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            try:
                from tqdm import tqdm  # noqa: PLC0415 - only for terminals
            except ModuleNotFoundError:  # the server extra has no tqdm
                return
            self._bar = tqdm(initial=start, unit=f" {unit}", unit_scale=True, dynamic_ncols=True, file=sys.stderr)

    def advance(self, count: int, total: int | None = None) -> None:
        """Counts what was done since the last call.

        Args:
            count: The number.
            total: The number at the end, if it is known.
        """
        if self._bar is not None:
            if total is not None and total != self._bar.total:
                self._bar.total = max(total, self._bar.n + count)
            self._bar.update(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
