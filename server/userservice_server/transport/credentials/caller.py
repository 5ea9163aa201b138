"""The caller of a call: its verified credential and the use of its rate limits."""

import time
from dataclasses import dataclass, field

from userservice_server.errors import RateLimitedError

_BURST_SECONDS = 1.0  # a burst may contain the calls of this many seconds
_STREAM_RETRY_SECONDS = 1.0  # an estimate, because the end of the open streams is unknown


class UnknownKeyIdError(Exception):
    """The key set does not contain the signing key of a token. The issuer may have added the key since."""


class Usage:
    """Use of the rate limits by a credential in this process. A reload of the keys file keeps the counts."""

    __slots__ = ("_next", "streams")

    def __init__(self) -> None:
        self.streams = 0
        self._next = 0.0  # due time of the next call at an even rate (GCRA)

    def wait(self, calls_per_second: float, now: float) -> float:
        """Counts a call and returns 0; above the rate limit, counts nothing and returns the seconds to wait."""
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
        scopes: the scopes of the credential.
        expires_at: Unix time at which the credential expires.
        verified_by: digest of the key that signed a token, or of a key of the keys file; empty for certificates.
        calls_per_second: rate limit of calls; None: no limit.
        max_streams: limit of concurrent streams; None: no limit.
        usage: use of the limits, shared by all calls with the credential.
    """

    kind: str
    name: str
    scopes: frozenset[str]
    expires_at: float
    verified_by: str = ""
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
        """Counts a new stream.

        Raises:
            RateLimitedError: the credential has too many streams.
        """
        if self.max_streams is not None and self.usage.streams >= self.max_streams:
            text = f"too many concurrent streams with this credential: the limit is {self.max_streams}; retry later"
            raise self._limited(text, _STREAM_RETRY_SECONDS, "max_streams")
        self.usage.streams += 1

    def give_back_stream(self) -> None:
        """Removes an ended stream from the count."""
        self.usage.streams -= 1

    def _limited(self, text: str, wait: float, limit: str) -> RateLimitedError:
        return RateLimitedError(text, wait, subject=f"{self.kind}:{self.name}", limit=limit)
