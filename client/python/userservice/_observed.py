"""Reports one attempt of a call to the hook of the manager."""

from __future__ import annotations

import time

import grpc

from userservice._headers import Headers, check_headers
from userservice.hooks import CallAttempt, CallEnd, OnCall


class Observed:
    """An attempt that the hook observes. Without a hook, it does nothing.

    Args:
        on_call: The hook.
        path: The path of the RPC.
        address: The address of the manager.
        headers: The headers of the request.

    Attributes:
        headers: The headers of the request, with those that the hook added.

    Raises:
        ValueError: If the hook added an invalid header.
    """

    __slots__ = ("_end", "_started", "headers")

    def __init__(self, on_call: OnCall | None, path: str, address: str, headers: Headers) -> None:
        self.headers = headers
        self._end: CallEnd | None = None
        if on_call is None:
            return
        attempt = CallAttempt(path.removeprefix("/"), address, [])
        self._started = time.perf_counter()
        self._end = on_call(attempt)
        if attempt.headers:
            self.headers = (*headers, *check_headers(attempt.headers))

    def end(self, code: grpc.StatusCode) -> None:
        """Reports the end of the attempt. Only the first report counts."""
        end, self._end = self._end, None
        if end is not None:
            end(code, time.perf_counter() - self._started)
