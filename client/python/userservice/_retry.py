"""Deadlines of calls, and retries: which failures are retried, and after which pause."""

from __future__ import annotations

import math
import time

import grpc

from userservice._transport import sleep
from userservice.errors import CredentialsInvalidError, DeadlineExceededError, ManagerClosedError, UserServiceError

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 1.0
_DOUBLINGS = math.ceil(math.log2(_LONGEST_DELAY / _FIRST_DELAY))


_LONGEST_TIMEOUT = 31_536_000.0
"""Seconds in a year. gRPC treats a timeout of several hundred years as already expired."""


def check_timeout(timeout: float) -> float:
    """Returns the timeout in seconds, at most a year.

    Raises:
        ValueError: If the timeout is not a finite number above 0. Every call has a deadline.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise ValueError(f"a timeout must be a number of seconds above 0, not {timeout!r}")
    return min(timeout, _LONGEST_TIMEOUT)


def check_retries(retries: int | None) -> int | None:
    """Returns the maximum number of retries; None means any number before the deadline.

    Raises:
        ValueError: If the number is not an integer from 0.
    """
    if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
        raise ValueError(f"retries must be an integer from 0, or None, not {retries!r}")
    return retries


def worth_retrying(error: UserServiceError) -> bool:
    """Returns whether a call that failed with this error is retried.

    Every call can be repeated safely: reads change nothing, and writes have a request_id. The class of an error defines
    whether its reason is retried. An error without a reason comes from gRPC or a proxy, not from the service. If a
    connection is cut during a call, the code can be INTERNAL or CANCELLED (a stream reset, see gRPC's HTTP/2 mapping)
    or UNKNOWN with "Stream removed"; these are retried too.
    """
    if error.retried:
        return True
    if error.reason or isinstance(error, ManagerClosedError):
        return False
    if error.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED):
        return True
    return error.code is grpc.StatusCode.UNKNOWN and "Stream removed" in error.message


def _is_credential_rejected(error: UserServiceError) -> bool:
    # If the error has no reason, a proxy in front of the service has rejected the credential.
    is_by_proxy = error.code is grpc.StatusCode.UNAUTHENTICATED and not error.reason
    return is_by_proxy or isinstance(error, CredentialsInvalidError)


class Attempts:
    """The attempts of one call: one deadline for all attempts, and a random pause before each retry.

    The longest pause grows from 50 ms to 100 ms, 200 ms … and 1 s. The pause is random between 0 and this maximum
    ("full jitter"), so that the clients of a restarted server do not all retry at the same time. If the service
    returned a retry delay, the delay is added to the pause.

    If the service rejects a credential and the token comes from a callable, the call is repeated once without a pause.
    This repetition counts as a retry.

    Args:
        timeout: Seconds to the deadline of all attempts.
        can_renew_token: Whether to repeat the call once with a new token if the service rejects the token.
        retries: The maximum number of retries; None for any number.

    Attributes:
        deadline: The deadline of all attempts, a time of `time.monotonic`.
    """

    def __init__(self, timeout: float, *, can_renew_token: bool = False, retries: int | None = None) -> None:
        self._can_renew_token = can_renew_token
        self._timeout = timeout
        self.deadline = time.monotonic() + timeout
        self._failures = 0
        self._retries_left = math.inf if retries is None else retries
        self._last: tuple[UserServiceError, BaseException | None] | None = None

    @property
    def remaining(self) -> float:
        """Seconds to the deadline, never below 0."""
        return max(0.0, self.deadline - time.monotonic())

    async def pause(self, error: UserServiceError, cause: BaseException | None = None) -> None:
        """Waits before the next attempt.

        Args:
            error: The error of the last attempt.
            cause: The exception from which the error was created.

        Raises:
            UserServiceError: The error, if it is not retried, if no retries are left, or if the next attempt would
                start after the deadline.
        """
        try:
            has_retry = self._retries_left > 0
            self._retries_left -= 1
            if has_retry and self._can_renew_token and _is_credential_rejected(error) and self.remaining:
                self._can_renew_token = False
                self._last = error, cause
                return
            is_retried = worth_retrying(error)
            if is_retried:
                self._last = error, cause
                self._failures += 1
            room = self.remaining - (error.retry_delay or 0.0)
            if not (is_retried and has_retry) or room < _FIRST_DELAY:
                raise self._final(error, cause)
            delay = error.retry_delay or 0.0
        finally:
            # The traceback of the raised error refers to this frame. If these variables referred to the error, there
            # would be a reference cycle, which keeps request and response in memory until the garbage collector runs.
            del error, cause
        # The pause never exceeds the remaining time, so that the last attempt starts shortly before the deadline.
        ceiling = min(_FIRST_DELAY * 2 ** min(self._failures - 1, _DOUBLINGS), _LONGEST_DELAY, room)
        # Imported here, because the import takes 1 ms and most programs never retry.
        from random import uniform  # noqa: PLC0415

        jitter = uniform(0, ceiling)  # noqa: S311 - not used for security
        await sleep(delay + jitter)

    def _final(self, error: UserServiceError, cause: BaseException | None) -> UserServiceError:
        """Returns the error to raise."""
        if isinstance(error, DeadlineExceededError) and self._last is not None:
            # The error of the previous attempt is more informative than a passed deadline.
            error, cause = self._last
        self._last = None
        if self._failures:
            error.add_note(f"{self._failures} attempts failed within the deadline of {self._timeout:g} s")
        error.__cause__ = cause
        return error
