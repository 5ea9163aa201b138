"""How long a call may take, which failures it tries again, and when."""

from __future__ import annotations

import asyncio
import math
import time

import grpc

from userservice.errors import DeadlineExceededError, ManagerClosedError, UserServiceError

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 1.0
_DOUBLINGS = math.ceil(math.log2(_LONGEST_DELAY / _FIRST_DELAY))


_LONGEST_TIMEOUT = 31_536_000.0
"""Seconds in a year. gRPC takes a timeout of some hundred years for one that is over."""


def check_timeout(timeout: float) -> float:
    """Returns the timeout, in seconds. One of more than a year counts as a year.

    Raises:
        ValueError: If it is not a finite number above 0: every call has a deadline.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise ValueError(f"a timeout must be a number of seconds above 0, not {timeout!r}")
    return min(timeout, _LONGEST_TIMEOUT)


def worth_retrying(error: UserServiceError) -> bool:
    """Returns whether the same call may succeed later.

    Every call can be repeated safely: reads change nothing, and writes carry a request_id. The class of the error says
    whether its reason is one that the managers retry. An error without a reason does not come from the service: gRPC or
    a proxy made it. A connection that is cut during a call can show as INTERNAL or CANCELLED (a stream reset, see
    gRPC's HTTP/2 mapping) or as UNKNOWN with "Stream removed"; these are retried as well.
    """
    if error.retried:
        return True
    if error.reason or isinstance(error, ManagerClosedError):
        return False
    if error.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED):
        return True
    return error.code is grpc.StatusCode.UNKNOWN and "Stream removed" in error.message


class Attempts:
    """The attempts at one call: one deadline over all of them, and a growing, random pause between two.

    The pause is drawn from 0 to 50 ms, 100 ms, 200 ms … up to 1 s ("full jitter"), so that many clients of a server
    that went away do not come back in step; where the service names a delay, that is added.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._failures = 0
        self._last: tuple[UserServiceError, BaseException | None] | None = None

    @property
    def remaining(self) -> float:
        """Seconds to the deadline, never below 0."""
        return max(0.0, self._deadline - time.monotonic())

    async def pause(self, error: UserServiceError, cause: BaseException | None = None) -> None:
        """Waits before the next attempt.

        Args:
            error: How the last attempt failed.
            cause: What it was made from.

        Raises:
            UserServiceError: The error, if another attempt is not worth it or would begin after the deadline.
        """
        try:
            is_worth_it = worth_retrying(error)
            if is_worth_it:
                self._last = error, cause
                self._failures += 1
            room = self.remaining - (error.retry_delay or 0.0)
            if not is_worth_it or room < _FIRST_DELAY:
                raise self._final(error, cause)
            delay = error.retry_delay or 0.0
        finally:
            # The traceback of the error that is raised holds this frame: with these, it would be a reference cycle,
            # which keeps the request and the answer until the garbage collector runs.
            del error, cause
        # Never past the deadline: the last attempt is to come near its end, not long before it.
        ceiling = min(_FIRST_DELAY * 2 ** min(self._failures - 1, _DOUBLINGS), _LONGEST_DELAY, room)
        # Imported here because most programs never try again, and it takes 1 ms to load.
        from random import uniform  # noqa: PLC0415

        jitter = uniform(0, ceiling)  # noqa: S311 - spreads load, guards nothing
        await asyncio.sleep(delay + jitter)

    def _final(self, error: UserServiceError, cause: BaseException | None) -> UserServiceError:
        """Returns the error that the caller gets."""
        if isinstance(error, DeadlineExceededError) and self._last is not None:
            # That time ran out says less than what kept the earlier attempts from succeeding.
            error, cause = self._last
        self._last = None
        if self._failures:
            error.add_note(f"{self._failures} attempts failed within the deadline of {self._timeout:g} s")
        error.__cause__ = cause
        return error
