"""A service manager that treats its main process as systemd treats a unit with Type=notify and WatchdogSec=."""

import os
import shutil
import signal
import socket
import struct
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

_CREDENTIALS = struct.Struct("3i")  # process, user and group of the sender, as the kernel reports them
_numbers = count()


@dataclass(frozen=True)
class Message:
    time: float
    pid: int
    fields: dict[str, str]


class ServiceManager:
    """Receives notifications on a real socket. Once `guard` was called, ends a main process that sends no ping."""

    def __init__(self, watchdog_seconds: float, *, abstract: bool = False) -> None:
        self.watchdog_seconds = watchdog_seconds
        self.fired = threading.Event()
        self._folder = Path(tempfile.mkdtemp(prefix="notify-"))
        self._address = f"@{self._folder.name}-{next(_numbers)}" if abstract else str(self._folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.settimeout(0.05)
        self._socket.bind(self._address.replace("@", "\0"))
        self._main_pid = 0
        self._messages: list[Message] = []
        self._is_closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that systemd sets. It also sets WATCHDOG_PID, but the pid is not known here in advance."""
        return {"NOTIFY_SOCKET": self._address, "WATCHDOG_USEC": str(int(self.watchdog_seconds * 1_000_000))}

    def guard(self, pid: int) -> None:
        """Starts the watchdog of a process."""
        self._main_pid = pid

    def received(self, name: str) -> list[Message]:
        """Returns the messages with a field of this name."""
        return [message for message in tuple(self._messages) if name in message.fields]

    @property
    def senders(self) -> set[int]:
        return {message.pid for message in tuple(self._messages)}

    def _read(self) -> None:
        started = time.monotonic()
        while not self._is_closed:
            with suppress(TimeoutError):
                data, extra, *_ = self._socket.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
                pid, *_ = _CREDENTIALS.unpack(extra[0][2])
                fields = dict(line.split("=", 1) for line in data.decode().splitlines())
                self._messages.append(Message(time.monotonic(), pid, fields))
            pings = [message.time for message in self._messages if message.fields.keys() & {"WATCHDOG", "READY"}]
            silence = time.monotonic() - max(pings, default=started)
            if self._main_pid and silence > self.watchdog_seconds and not self.fired.is_set():
                self.fired.set()
                os.kill(self._main_pid, signal.SIGABRT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self._reader.join(5)
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)
