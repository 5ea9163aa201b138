"""Ends open streams whose credential is revoked or expires."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from userservice_server.errors import CredentialsInvalidError
from userservice_server.transport.call import Call
from userservice_server.transport.credentials.caller import Caller
from userservice_server.wire.records import cursor_of

_CHECK_SECONDS = 0.25  # plus the interval of watched files and the time of an abort: less than the 2 s in the docs


class OpenStreams:
    """Checks the credentials of the open streams of a process every 0.25 s, and ends the streams that fail the check.

    Args:
        fault_of: returns why a caller no longer has a scope; empty if the caller has it.
    """

    def __init__(self, fault_of: Callable[[Caller, str], str]) -> None:
        self._fault_of = fault_of
        self._streams: set[OpenStream] = set()
        self._has_timer = False

    def add(self, stream: "OpenStream") -> None:
        """Starts to check a stream."""
        self._streams.add(stream)
        if not self._has_timer:
            self._has_timer = True
            asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check)

    def remove(self, stream: "OpenStream") -> None:
        """Stops checking a stream."""
        self._streams.discard(stream)

    def _check(self) -> None:
        if not self._streams:
            self._has_timer = False
            return
        asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check)
        for stream in [*self._streams]:
            if fault := self._fault_in(stream):
                self._streams.discard(stream)
                stream.end(fault)

    def _fault_in(self, stream: "OpenStream") -> str:
        """Returns why the caller of a stream no longer has one of its scopes; empty if the caller has all of them."""
        return next(filter(None, (self._fault_of(stream.caller, scope) for scope in stream.scopes)), "")


class OpenStream:
    """A ``with`` block around a stream. Counts the stream against the limit of the caller.

    Raises:
        CredentialsInvalidError: the credential no longer permits the scopes; contains the cursor of the last response.
        RateLimitedError: the caller has too many streams.
    """

    __slots__ = ("_call", "_fault", "_scope", "_streams", "_task", "caller")

    def __init__(self, streams: OpenStreams, call: Call, caller: Caller, scope: str) -> None:
        self.caller = caller
        self._scope = scope
        self._streams = streams
        self._call = call
        self._fault = ""

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes that the stream needs."""
        return (self._scope, *self._call.more_scopes)

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a coroutine runs in a task")
        self.caller.take_stream()
        self._task = task
        self._streams.add(self)
        return self

    def end(self, fault: str) -> None:
        """Ends the stream."""
        self._fault = fault
        self._task.cancel()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._streams.remove(self)
        self.caller.give_back_stream()
        if self._fault and not self._task.uncancel() and exc_type is asyncio.CancelledError:
            self._call.log_fields["credential_fault"] = self._fault
            raise CredentialsInvalidError(self._fault, next_cursor=cursor_of(self._call.cursor)) from None
