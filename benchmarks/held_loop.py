"""`python -m benchmarks.held_loop FILE serve …`: the service, which measures the turns of its event loop.

SIGUSR1 begins a measurement; SIGUSR2 ends it and writes the result to FILE as JSON. In a turn, the event loop runs the
callbacks that are ready; other calls wait until the turn ends. The CPU time of the loop's thread is measured, so that
other programs on the machine do not count. During a measurement, the event loop never sleeps, so this service is not
used for other figures.
"""

import asyncio
import heapq
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import thread_time_ns
from typing import Any

from userservice_server import cli
from userservice_server.process import serving

_LONGEST = 5  # turns that are reported
_MILLISECOND = 1e6  # nanoseconds

_serve: Callable[..., Awaitable[None]] = serving.serve


class _Turns:
    """Measures the turns of the running event loop."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._loop = asyncio.get_running_loop()
        self._before = 0
        self._taken: list[int] = []
        self._is_running = False

    def begin(self) -> None:
        self._taken, self._before, self._is_running = [], thread_time_ns(), True
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        now = thread_time_ns()
        self._taken.append(now - self._before)
        self._before = now
        if self._is_running:
            self._loop.call_soon(self._turn)

    def end(self) -> None:
        self._is_running = False
        longest = [taken / _MILLISECOND for taken in heapq.nlargest(_LONGEST, self._taken)]
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps({"turns": len(self._taken), "longest": longest}))
        temporary.replace(self._file)


async def _measured(file: Path, *arguments: Any) -> None:
    turns, loop = _Turns(file), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, turns.begin)
    loop.add_signal_handler(signal.SIGUSR2, turns.end)
    await _serve(*arguments)


def main() -> None:
    """Runs the command line of the service."""
    file = Path(sys.argv.pop(1))

    async def serve(*arguments: Any) -> None:
        await _measured(file, *arguments)

    serving.serve = serve  # type: ignore[assignment]
    cli.main()


if __name__ == "__main__":
    main()
