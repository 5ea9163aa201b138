"""A primary with replicas, and three Sentinels that monitor them."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import redis

from harness.ports import free_port
from harness.programs import Program
from harness.stores import BACKENDS, Store
from harness.tools import require
from harness.waiting import until

NAME = "users"
QUORUM = 2
_OPTIONS = ["--repl-diskless-sync-delay", "0", "--repl-timeout", "5", "--maxmemory", "200mb"]


class Sentinels:
    """Three Sentinels, a primary and its replicas; can take the place of a `Store`.

    Attributes:
        stores: all servers.
        sentinels: the programs of the Sentinels.
    """

    def __init__(self, backend: str = "redis", *, replicas: int = 1, down_after_ms: int = 1000) -> None:
        self.backend = backend
        self._closing = contextlib.ExitStack()
        with contextlib.ExitStack() as failing:
            failing.callback(self.close)
            self.stores = [self._store(_OPTIONS)]
            primary = str(self.stores[0].port)
            self.stores += [self._store([*_OPTIONS, "--replicaof", "127.0.0.1", primary]) for _ in range(replicas)]
            with self.stores[0].client() as client:
                until(lambda: client.info("replication")["connected_slaves"] == replicas)
            self.ports = [free_port() for _ in range(3)]
            directory = self.stores[0].directory
            self.sentinels = [self._sentinel(directory, port, primary, down_after_ms) for port in self.ports]
            until(lambda: all(self._knows_all(port, replicas) for port in self.ports), within=20)
            failing.pop_all()

    def _store(self, options: list[str]) -> Store:
        return self._closing.enter_context(Store(self.backend, port=free_port(), options=options))

    def _sentinel(self, directory: Path, port: int, primary: str, down_after_ms: int) -> Program:
        file = directory / f"sentinel-{port}.conf"
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {directory}",
            f"sentinel monitor {NAME} 127.0.0.1 {primary} {QUORUM}",
            f"sentinel down-after-milliseconds {NAME} {down_after_ms}",
            f"sentinel failover-timeout {NAME} 6000",
            f"sentinel parallel-syncs {NAME} 2",
        ]
        file.write_text("".join(f"{line}\n" for line in lines))
        return self._closing.enter_context(Program([require(BACKENDS[self.backend]), file, "--sentinel"]))

    def _knows_all(self, port: int, replicas: int) -> bool:
        try:
            found = self.state(port)
        except redis.exceptions.ConnectionError:
            return False
        return (found["num-slaves"], found["num-other-sentinels"]) == (replicas, len(self.ports) - 1)

    def state(self, port: int) -> dict[str, Any]:
        """What a Sentinel knows about the primary."""
        with redis.Redis(port=port) as client:
            found: dict[str, Any] = client.sentinel_masters()[NAME]
            return found

    @property
    def url(self) -> str:
        return f"redis-sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{NAME}"

    @property
    def primary(self) -> Store:
        """The server that most Sentinels name as the primary."""
        ports = [self.state(port)["port"] for port in self.ports]
        port = max(ports, key=ports.count)
        return next(store for store in self.stores if store.port == port)

    def fail_over(self) -> None:
        """Asks a Sentinel for a planned failover, and waits until all Sentinels know the new primary."""
        before = self.primary
        # Sentinels read the state of replicas every 10 s, and promote none before they know it.
        until(self._begin_failover, within=20, every=0.2)
        self.wait_for_another(before)

    def _begin_failover(self) -> bool:
        with redis.Redis(port=self.ports[0]) as client:
            try:
                client.execute_command("SENTINEL", "FAILOVER", NAME)
            except redis.exceptions.ResponseError:
                return False
            return True

    def wait_for_another(self, before: Store) -> float:
        """Waits until all Sentinels know another primary; returns the seconds."""
        started = time.monotonic()
        until(lambda: all(self.state(port)["port"] != before.port for port in self.ports), within=30, every=0.01)
        return time.monotonic() - started

    def settle(self) -> None:
        """Waits until all other servers replicate the primary, and all Sentinels know that."""

        def is_settled() -> bool:
            with self.client() as client:
                found = client.info("replication")
            replicas = len(self.stores) - 1
            if (found["role"], found["connected_slaves"]) != ("master", replicas):
                return False
            return all(self.state(port)["flags"] == "master" for port in self.ports)

        until(is_settled, within=40)

    @contextlib.contextmanager
    def client(self, **arguments: str | int) -> Iterator[Any]:
        with self.primary.client(**arguments) as client:
            yield client

    def empty(self) -> None:
        with self.client() as client:
            client.flushall()

    def close(self) -> None:
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
