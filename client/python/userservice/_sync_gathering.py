"""The blocking version of `_gathering.py`. Each call is sent in the thread of one of its callers."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from userservice._gathering_limits import MOST_NAMES, MOST_RUNNING, PATIENCE

OutcomeT = TypeVar("OutcomeT")


class _Request(Generic[OutcomeT]):
    """A request of a thread. Its gate opens when the request has an outcome, or when its thread must send a call."""

    __slots__ = ("call", "deadline", "gate", "has_left", "is_waiting", "name", "outcome")

    def __init__(self, name: str, deadline: float) -> None:
        self.name = name
        self.deadline = deadline
        # The gate is a lock, because a threading.Event contains a lock and costs much more.
        self.gate = threading.Lock()
        self.gate.acquire()
        self.is_waiting = True
        self.has_left = False
        self.call: _Call[OutcomeT] | None = None
        self.outcome: OutcomeT | None = None


class _Call(Generic[OutcomeT]):
    """A call and its requests. The thread of one of these requests sends the call."""

    __slots__ = ("is_over", "requests", "started")

    def __init__(self, requests: list[_Request[OutcomeT]]) -> None:
        self.requests = requests
        self.started = time.monotonic()
        self.is_over = False


class Gathering(Generic[OutcomeT]):
    """Sends concurrent requests for names in shared calls.

    A request never joins a call that was already sent, so its outcome is not older than the request. If no call runs, a
    request is sent immediately. While a call runs, further requests wait until the call ends, but at most `PATIENCE`
    seconds. If the waiting requests fill a call, they are sent without waiting. No thread is started: the thread of the
    request with the latest deadline sends the call of all its requests, so that no thread waits longer than its own
    deadline.

    Args:
        send: Makes one call for several names, with a timeout in seconds; returns the outcome of each name.
    """

    def __init__(self, send: Callable[[Sequence[str], float], Mapping[str, OutcomeT]]) -> None:
        self._send = send
        # Reentrant, because a signal handler may make a call in a thread that holds the lock.
        self._lock = threading.RLock()
        self._waiting: deque[_Request[OutcomeT]] = deque()
        self._calls: set[_Call[OutcomeT]] = set()

    def outcome(self, name: str, deadline: float) -> OutcomeT:
        """Returns the outcome for a name.

        An exception in one thread, such as KeyboardInterrupt, has no effect on the requests of other threads.

        Raises:
            TimeoutError: If there is no outcome before the deadline, which is a time of `time.monotonic`.
        """
        request: _Request[OutcomeT] = _Request(name, deadline)
        try:
            with self._lock:
                self._waiting.append(request)
                self._start()
            self._wait(request)
            if request.call is not None:
                self._make(request.call, request)
        finally:
            if request.outcome is None:
                self._leave(request)
        if request.outcome is None:
            raise TimeoutError
        return request.outcome

    def _wait(self, request: _Request[OutcomeT]) -> None:
        """Waits until the gate of the request opens, or the deadline has passed."""
        while (remaining := request.deadline - time.monotonic()) > 0:
            if request.gate.acquire(timeout=min(PATIENCE, remaining) if request.is_waiting else remaining):
                return
            with self._lock:
                self._start()

    def _start(self) -> None:
        """Forms the next calls. A running call delays them for at most `PATIENCE` seconds after its start."""
        while self._waiting and (len(self._waiting) >= MOST_NAMES or self._occupied() < MOST_RUNNING):
            call: _Call[OutcomeT] = _Call([])
            while self._waiting and len(call.requests) < MOST_NAMES:
                request = self._waiting.popleft()
                request.is_waiting = False
                call.requests.append(request)
            self._calls.add(call)
            sender = max(call.requests, key=lambda request: request.deadline)
            sender.call = call
            sender.gate.release()

    def _occupied(self) -> int:
        recent = time.monotonic() - PATIENCE
        return sum(call.started > recent for call in self._calls)

    def _make(self, call: _Call[OutcomeT], sender: _Request[OutcomeT]) -> None:
        """Makes a call in the current thread, which is the thread of one of the call's requests."""
        names = list({request.name: None for request in call.requests})
        outcomes = self._send(names, max(0.0, sender.deadline - time.monotonic()))
        for request in call.requests:
            request.outcome = outcomes[request.name]
            if request is not sender:
                request.gate.release()
        self._end(call)

    def _end(self, call: _Call[OutcomeT]) -> None:
        with self._lock:
            call.is_over = True
            self._calls.discard(call)
            self._start()

    def _leave(self, request: _Request[OutcomeT]) -> None:
        """Removes a request whose caller has stopped waiting. If its thread had to send a call, another thread does."""
        with self._lock:
            request.has_left = True
            if request.is_waiting:
                request.is_waiting = False
                self._waiting.remove(request)
            call = request.call
            if call is None or call.is_over:
                return
            for other in reversed(call.requests):
                if not other.has_left and other.outcome is None:
                    other.is_waiting = True
                    self._waiting.appendleft(other)
            self._end(call)
