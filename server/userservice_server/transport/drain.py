"""Counts running calls, so that a shutdown can wait until they finish."""

import asyncio


class Drain:
    """The calls that are running, and whether the server is shutting down.

    Attributes:
        started: whether the server is shutting down; streams then end after the chunk that they are sending.
        running: number of calls.
    """

    def __init__(self) -> None:
        self.started = False
        self.running = 0
        self._starting = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self) -> None:
        """Counts a call that starts."""
        self.running += 1
        self._idle.clear()

    def leave(self) -> None:
        """Counts the end of a call."""
        self.running -= 1
        if not self.running:
            self._idle.set()

    async def wait_for_start(self) -> None:
        """Waits until the server starts to shut down."""
        await self._starting.wait()

    async def finish(self, grace: float) -> None:
        """Starts the drain; waits until no call is running, but at most ``grace`` seconds."""
        self.started = True
        self._starting.set()
        try:
            await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            return
