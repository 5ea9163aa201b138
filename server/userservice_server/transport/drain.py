"""The calls that run are counted: for their most, and for the orderly end, when streams end at their next chunk."""

import asyncio

from userservice_server.transport.call import Call, Handler

_SOONEST_RETURN = 0.2  # seconds after which the first of those refused may try again
_LATEST_RETURN = 8.0  # later turns are given to nobody, for a manager gives up 10 s after its first try; it starts over
_RETURNS_PER_SECOND = 500  # the others follow one by one; at once, they would be a load of their own (operations.md)


class Drain:
    """Knows the calls under way, and whether the server is about to end.

    Args:
        max_calls: how many may be under way at once.

    Attributes:
        started: whether streams are to end at their next chunk.
    """

    def __init__(self, max_calls: int) -> None:
        self.started = False
        self._max_calls = max_calls
        self._running = 0
        self._last_return = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    def track(self, handler: Handler) -> Handler:
        """Makes a handler's calls counted, and those beyond the most refused."""

        async def tracked(call: Call, request: bytes) -> bytes:
            if self._running >= self._max_calls:
                call.refused_for = self._next_return()  # told further in, where failures are
                return await handler(call, request)
            self._running += 1
            self._idle.clear()
            try:
                return await handler(call, request)
            finally:
                self._running -= 1
                if not self._running:
                    self._idle.set()

        return tracked

    def _next_return(self) -> float:
        """Seconds after which a caller that is refused now is to try again: each in a turn of its own."""
        now = asyncio.get_running_loop().time()
        soonest, turn = now + _SOONEST_RETURN, self._last_return + 1 / _RETURNS_PER_SECOND
        self._last_return = turn if soonest < turn <= now + _LATEST_RETURN else soonest
        return self._last_return - now

    async def finish(self, grace: float) -> None:
        """Waits until no call is under way, ``grace`` seconds at the most."""
        self.started = True
        try:
            await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            return
