"""Limits the number of concurrent calls, so that neither a slow store nor one client's streams block other clients."""

import asyncio
from collections import Counter

from userservice_server.errors import OverloadedError
from userservice_server.transport.call import Context, Load

_STREAM_SHARE = 2  # at most 1/2 of the calls may be streams; the rest is reserved for unary calls
_CONNECTION_SHARE = 4  # a connection may have at most 1/4 of the streams: behind a proxy, it serves many clients
_MOST_WATCHES, _MOST_WATCHES_PER_CONNECTION = 1000, 100
_MOST_IMPORTS = 8
_MOST_REFLECTIONS, _MOST_REFLECTIONS_PER_CONNECTION = 100, 25

_SOONEST_RETURN = 0.2  # seconds; the shortest retry delay of a rejected call
_LATEST_RETURN = 8.0  # seconds; the longest retry delay, because a manager fails 10 s after its first attempt
_RETURNS_PER_SECOND = 500  # rate of the retries; all at once would be a new overload (docs/connections.md)


class RetryDelays:
    """Spreads the retries of rejected callers over time, by giving each caller a different retry delay."""

    def __init__(self) -> None:
        self._last_return = 0.0

    def next(self) -> float:
        """Returns the retry delay in seconds of a caller that is rejected now; starts again at the shortest delay."""
        now = asyncio.get_running_loop().time()
        soonest, turn = now + _SOONEST_RETURN, self._last_return + 1 / _RETURNS_PER_SECOND
        self._last_return = turn if soonest < turn <= now + _LATEST_RETURN else soonest
        return self._last_return - now


class Budget:
    """Limits the concurrent calls of one kind, in this process and on each connection.

    Args:
        name: name of the limit in the log; the limit per connection has the suffix ``_per_connection``.
        what: name of the calls in error texts.
        delays: returns the retry delays of rejected callers.
        most: maximum number of calls in this process.
        most_per_connection: maximum number of calls on one connection; None: not limited.
    """

    def __init__(
        self, name: str, what: str, delays: RetryDelays, most: int, most_per_connection: int | None = None
    ) -> None:
        self._name = name
        self._what = what
        self._delays = delays
        self._most = most
        self._most_per_connection = most_per_connection
        self._running = 0
        self._running_on: Counter[str] = Counter()

    def take(self, context: Context) -> str:
        """Counts a call that starts; returns the argument for ``give_back``.

        Raises:
            OverloadedError: a limit is reached.
        """
        if self._running >= self._most:
            text = f"too many concurrent {self._what}: the limit is {self._most}; retry later"
            raise OverloadedError(text, self._delays.next(), limit=self._name)
        connection = ""
        if self._most_per_connection is not None and (connection := connection_of(context)):
            if self._running_on[connection] >= self._most_per_connection:
                text = f"too many concurrent {self._what} on this connection: the limit is {self._most_per_connection}"
                raise OverloadedError(f"{text}; retry later", self._delays.next(), limit=f"{self._name}_per_connection")
            self._running_on[connection] += 1
        self._running += 1
        return connection

    def give_back(self, connection: str) -> None:
        """Counts the end of a call."""
        self._running -= 1
        if connection:
            self._running_on[connection] -= 1
            if not self._running_on[connection]:
                del self._running_on[connection]


def connection_of(context: Context) -> str:
    """Returns the address and port of the client, which identify a connection; empty if the client has no port."""
    peer = context.peer()
    return peer if peer.startswith(("ipv4:", "ipv6:")) else ""


class Admission:
    """The limits on running calls in this process.

    Args:
        max_calls: maximum number of concurrent calls of the service's own RPCs; at most half of them are streams.
    """

    def __init__(self, max_calls: int) -> None:
        delays = RetryDelays()
        streams = max(1, max_calls // _STREAM_SHARE)
        calls = Budget("calls", "calls", delays, max_calls)
        all_streams = Budget("streams", "streams", delays, streams, max(1, streams // _CONNECTION_SHARE))
        self._budgets: dict[Load, tuple[Budget, ...]] = {
            Load.CALL: (calls,),
            Load.STREAM: (all_streams, calls),
            Load.IMPORT: (Budget("imports", "imports", delays, _MOST_IMPORTS), all_streams, calls),
            Load.PROBE: (),
            Load.WATCH: (
                Budget("health_watches", "health watches", delays, _MOST_WATCHES, _MOST_WATCHES_PER_CONNECTION),
            ),
            Load.REFLECTION: (
                Budget("reflection", "reflection streams", delays, _MOST_REFLECTIONS, _MOST_REFLECTIONS_PER_CONNECTION),
            ),
        }

    def budgets(self, load: Load) -> tuple[Budget, ...]:
        """Returns the limits that apply to a call, the lowest limit first."""
        return self._budgets[load]
