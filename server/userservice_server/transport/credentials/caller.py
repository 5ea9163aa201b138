"""The caller of a call: what its credential says, and what it uses of its limits."""

import time
from dataclasses import dataclass, field

from userservice_server.errors import RateLimitedError

_BURST_SECONDS = 1.0  # the calls of so many seconds may arrive at once
_STREAM_RETRY_SECONDS = 1.0  # nobody knows when a stream ends


class UnknownKeyIdError(Exception):
    """A token names a key that the key set does not have. The issuer may have added it since."""


class Usage:
    """What a credential uses in this process. It is kept when the keys file is reloaded."""

    __slots__ = ("_next", "streams")

    def __init__(self) -> None:
        self.streams = 0
        self._next = 0.0  # when the next call is due, if calls came evenly (GCRA)

    def wait(self, calls_per_second: float, now: float) -> float:
        """Counts a call; returns 0, or the seconds until there is room for one, if there is none now."""
        due = max(self._next, now - _BURST_SECONDS)
        if due > now:
            return due - now
        self._next = due + 1 / calls_per_second
        return 0.0


@dataclass(slots=True, eq=False)
class Caller:
    """A verified credential.

    Attributes:
        kind: ``key``, ``jwt`` or ``certificate``.
        name: the id of the key, the subject of the token, or the name in the certificate.
        scopes: the scopes that it has.
        expires_at: Unix time from which the credential is not valid.
        signed_by: identifies the key that signed a token; empty for other kinds.
        calls_per_second: limit of calls; None: no limit.
        max_streams: limit of concurrent streams; None: no limit.
        usage: what it uses of the limits.
    """

    kind: str
    name: str
    scopes: frozenset[str]
    expires_at: float
    signed_by: str = ""
    calls_per_second: float | None = None
    max_streams: int | None = None
    usage: Usage = field(default_factory=Usage)

    def take_call(self) -> None:
        """Counts a call.

        Raises:
            RateLimitedError: the credential has made too many calls.
        """
        rate = self.calls_per_second
        if rate is not None and (wait := self.usage.wait(rate, time.monotonic())):
            text = f"too many calls with this credential: the limit is {rate:g} per second; retry later"
            raise self._limited(text, wait, "calls_per_second")

    def take_stream(self) -> None:
        """Counts a stream that starts.

        Raises:
            RateLimitedError: the credential has too many streams.
        """
        if self.max_streams is not None and self.usage.streams >= self.max_streams:
            text = f"too many concurrent streams with this credential: the limit is {self.max_streams}; retry later"
            raise self._limited(text, _STREAM_RETRY_SECONDS, "max_streams")
        self.usage.streams += 1

    def give_back_stream(self) -> None:
        """Counts a stream that ended."""
        self.usage.streams -= 1

    def _limited(self, text: str, wait: float, limit: str) -> RateLimitedError:
        return RateLimitedError(text, wait, subject=f"{self.kind}:{self.name}", limit=limit)
