"""The option `on_call` of the managers: a hook that observes every attempt of every call.

`userservice.opentelemetry` has a hook that creates spans.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import grpc


class CallAttempt(NamedTuple):
    """An attempt of a call, passed to the hook `on_call` before it is sent.

    A call that is repeated, and a stream that is resumed, has several attempts.
    """

    method: str
    """The full name of the method, such as `userservice.v1.UserService/GetUser`."""

    address: str
    """The address of the manager."""

    headers: list[tuple[str, str | bytes]]
    """Headers that the hook may add to the attempt, in the form of the option `metadata`."""


CallEnd = Callable[[grpc.StatusCode, float], object]
"""Called once at the end of an attempt, with its status code and its duration in seconds."""

OnCall = Callable[[CallAttempt], CallEnd | None]
"""Called before each attempt, in the task or thread that makes the call; may return a function for its end.

Both functions must be fast and must not raise: an exception reaches the caller of the method.
"""
