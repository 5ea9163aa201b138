"""Real Redis and Valkey servers, each in a private directory."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness.programs import Program
from harness.tools import require

BACKENDS = {"valkey": "valkey-server", "redis": "redis-server"}


class Store:
    """A Redis or Valkey server that can be killed, frozen and started again at the same address.

    It listens on a Unix socket, and on 127.0.0.1 as well if it is given a port. Nothing is kept on disk unless
    `append_only` is set.
    """

    def __init__(
        self,
        backend: str = "valkey",
        *,
        port: int | None = None,
        append_only: bool = False,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._binary = require(BACKENDS[backend])
        self.backend = backend
        self.port = port
        self.directory = Path(tempfile.mkdtemp(prefix="store-"))  # short, for the path of a Unix socket is
        self.socket = self.directory / "store.sock"
        self._append_only = append_only
        self._options = list(options)
        self._environment = {**os.environ, **(environment or {})}
        self._program: Program | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0" if self.port else self.socket_url

    @property
    def socket_url(self) -> str:
        return f"unix://{self.socket}?db=0"

    @property
    def program(self) -> Program:
        assert self._program
        return self._program

    def start(self, *more_options: str, wait: bool = True) -> None:
        listen = ["--unixsocket", str(self.socket), "--port", str(self.port or 0), "--bind", "127.0.0.1"]
        keep = ["--appendonly", "yes" if self._append_only else "no"]
        self._program = Program(
            [self._binary, "--dir", self.directory, "--save", "", *listen, *keep, *self._options, *more_options],
            self._environment,
        )
        if wait:
            self._program.wait_for("stdout", r"Ready to accept connections|ready to accept connections")

    def kill(self) -> None:
        self.program.kill()
        self.program.__exit__()

    def restart(self, *more_options: str, wait: bool = True) -> None:
        self.kill()
        self.start(*more_options, wait=wait)

    def restart_slowly(self, seconds: float = 2) -> None:
        """Starts the store again so that it loads for the given time, during which it responds only with LOADING."""
        count = int(seconds * 5000)  # at about 200 microseconds each
        with self.client() as client, client.pipeline(transaction=False) as pipeline:
            for number in range(count):
                pipeline.set(f"filler{number}", "x")
            pipeline.execute()
        self.restart("--key-load-delay", "100", wait=False)

    def is_loading(self) -> bool:
        try:
            with self.client() as client:
                client.get("anything")
        except redis.exceptions.BusyLoadingError:
            return True
        except redis.exceptions.ConnectionError:
            return False  # it has not begun
        return False

    def freeze(self) -> None:
        self.program.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.program.send(signal.SIGCONT)

    @contextlib.contextmanager
    def client(self, **arguments: str | int) -> Iterator[Any]:
        """A redis-py client without retries. It is typed as Any, because redis-py's types are imprecise."""
        given: Any = arguments
        with redis.Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0), **given) as client:
            yield client

    def empty(self) -> None:
        with self.client() as client:
            client.flushall()

    def close(self) -> None:
        if self._program:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def everything(client: Any) -> dict[bytes, object]:
    """Returns every key with its whole value, so that a test can find data that should not exist."""
    read = {
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"string": client.get,
        b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"stream": client.xrange,
    }
    return {key: read[client.type(key)](key) for key in client.scan_iter(count=1000)}
