"""Reports the state of the service to systemd (sd_notify), for units with ``Type=notify`` and ``WatchdogSec=``."""

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Self

_SECONDS = 0.5  # limit for a message that must arrive; pings do not wait at all
_RETRY_SECONDS = 0.01
_EXTEND_INTERVAL = 5.0
_EXTENSION = 30.0  # systemd ends the start if it receives no other extension within this time
_MICRO = 1_000_000


class Systemd:
    """Sends messages to the socket of the service manager. Does nothing if there is no service manager.

    Args:
        address: a path, or ``@`` and the name of an abstract socket; empty: there is no service manager.
        watchdog_seconds: time after which the service manager ends a service that sent no ping; 0: no watchdog.
    """

    def __init__(self, address: str = "", watchdog_seconds: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._interval = watchdog_seconds / 2  # as systemd recommends
        self._is_ready = False
        self._next_ping = 0.0
        self._next_extension = 0.0
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)  # noqa: FBT003 - its only parameter

    @classmethod
    def take_from(cls, environment: MutableMapping[str, str]) -> Self:
        """Reads the variables of systemd and removes them, so that child processes do not inherit them."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        process = environment.pop("WATCHDOG_PID", str(os.getpid()))  # systemd may watch another process
        if not address.startswith(("/", "@")):
            return cls()
        is_watched = microseconds.isdecimal() and process == str(os.getpid())
        return cls(address, int(microseconds) / _MICRO if is_watched else 0.0)

    @property
    def ping_interval(self) -> float:
        """Seconds between two pings; 0 without a watchdog."""
        return self._interval

    def loading(self) -> None:
        """Asks for more time to start, because the store loads its data. Call it repeatedly, at least once a second."""
        now = time.monotonic()
        if now >= self._next_extension:
            self._next_extension = now + _EXTEND_INTERVAL
            microseconds = int(_EXTENSION * _MICRO)
            self._send(f"EXTEND_TIMEOUT_USEC={microseconds}\nSTATUS=the store is loading its data", _SECONDS)

    def ready(self, status: str) -> None:
        """Reports that the start is complete; ``systemctl status`` shows the status."""
        self._is_ready = True
        self._send(f"READY=1\nSTATUS={status}", _SECONDS)

    def stopping(self) -> None:
        """Reports that the service shuts down."""
        self._send("STOPPING=1\nSTATUS=shutting down", _SECONDS)

    def ping(self) -> None:
        """Reports that the service works, at half the interval of the watchdog. Call it several times a second."""
        now = time.monotonic()
        if self._interval and self._is_ready and now >= self._next_ping:
            self._next_ping = now + self._interval
            self._send("WATCHDOG=1", 0.0)

    def _send(self, message: str, limit: float) -> None:
        if self._socket is None:
            return
        deadline = time.monotonic() + limit
        with suppress(OSError):  # the service must serve even if its service manager does not listen
            while True:
                try:
                    self._socket.sendto(message.encode(), self._address)
                except BlockingIOError:  # the queue of the socket is full
                    if time.monotonic() >= deadline:
                        return
                    time.sleep(_RETRY_SECONDS)
                else:
                    return
