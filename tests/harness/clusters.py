"""A Redis or Valkey Cluster on loopback, whose nodes can be killed, frozen and started again."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness.ports import free_port
from harness.stores import Store
from harness.waiting import until
from userservice import StoreChangedError, SyncUserManager

SLOTS = 16384


class Cluster:
    """Masters with equal ranges of slots, and their replicas; can take the place of a `Store`.

    Args:
        backend: which server the nodes run.
        masters: number of masters.
        replicas: number of replicas of each master.
        node_timeout_ms: milliseconds after which a node that does not answer is considered lost.
        tls: options for certificates and keys; the nodes then use TLS among themselves and accept TLS from clients.
        append_only: whether the nodes keep their data on disk.
        options: more options of the nodes.

    Attributes:
        nodes: all nodes; first the masters, then the first replica of each, and so on.
    """

    def __init__(
        self,
        backend: str = "redis",
        *,
        masters: int = 3,
        replicas: int = 0,
        node_timeout_ms: int = 2000,
        tls: Sequence[str] = (),
        append_only: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        self.backend = backend
        self._masters = masters
        self._tls, self._append_only = tls, append_only
        self._closing = contextlib.ExitStack()
        self._options = [
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms)),
            *("--cluster-require-full-coverage", "no", "--cluster-allow-replica-migration", "no"),
            *("--repl-diskless-sync-delay", "0", "--maxmemory", "200mb", *options),
        ]
        # By default the port of the bus is the node's port and 10 000, which systems also choose for clients.
        self._bus_ports: dict[Store, int] = {}
        self._tls_ports: dict[Store, int] = {}
        with contextlib.ExitStack() as failing:
            failing.callback(self.close)
            self.nodes = [self.started() for _ in range(masters * (1 + replicas))]
            self._join(replicas)
            failing.pop_all()

    def started(self, *options: str) -> Store:
        """Starts a node that is not in the cluster yet."""
        port, bus_port, tls_port = free_port(), free_port(), free_port() if self._tls else 0
        own = [*self._options, "--cluster-port", str(bus_port), *options]
        if tls_port:
            own += ["--tls-cluster", "yes", "--tls-port", str(tls_port), *self._tls]
        node = Store(self.backend, port=port, append_only=self._append_only, options=own)
        self._bus_ports[node], self._tls_ports[node] = bus_port, tls_port
        return self._closing.enter_context(node)

    def port_of(self, node: Store) -> int:
        """The port for the service and for other nodes."""
        return self._tls_ports[node] or node.port or 0

    def shown_port(self, node: Store) -> int:
        """The port of a node in the reply to CLUSTER SLOTS over connections without TLS."""
        return node.port or 0

    def restart_elsewhere(self) -> None:
        """Kills all nodes and starts them with their data at new addresses, as a scheduler of containers does."""
        for node in self.nodes:
            node.kill()
        for node in self.nodes:
            node.port, self._bus_ports[node] = free_port(), free_port()
            node.start("--cluster-port", str(self._bus_ports[node]))
        for node, other in combinations(self.nodes, 2):
            self._meet(node, other)

    def _join(self, replicas: int) -> None:
        share = SLOTS // self._masters
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                if number < self._masters:
                    last = SLOTS - 1 if number == self._masters - 1 else (number + 1) * share - 1
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
            if number:
                self._meet(node, self.nodes[0])
        until(lambda: all(self._known(node) == len(self.nodes) for node in self.nodes), within=20)
        for number, node in enumerate(self.nodes[self._masters :]):
            with node.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", self.id_of(self.nodes[number % self._masters]))
        self.settle(replicas)

    def _meet(self, node: Store, other: Store) -> None:
        with node.client() as client:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.port_of(other), self._bus_ports[other])

    def settle(self, replicas: int) -> None:
        """Waits until all nodes agree that all slots are covered, and each master has its replicas."""

        def is_settled() -> bool:
            masters = 0
            for node in self.nodes:
                with node.client() as client:
                    if "cluster_state:ok" not in client.execute_command("CLUSTER", "INFO").decode():
                        return False
                    role = client.execute_command("ROLE")
                if role[0] == b"master":
                    masters += 1
                    if len(role[2]) != replicas:
                        return False
                elif role[3] != b"connected":
                    return False
            return masters == self._masters

        until(is_settled, within=30)

    def _known(self, node: Store) -> int:
        with node.client() as client:
            lines = client.execute_command("CLUSTER", "NODES").decode().splitlines()
        return sum("handshake" not in line for line in lines)

    def id_of(self, node: Store) -> str:
        with node.client() as client:
            found: bytes = client.execute_command("CLUSTER", "MYID")
        return found.decode()

    @property
    def masters(self) -> list[Store]:
        """The nodes that are masters now, in the order of `nodes`."""
        return [node for node in self.nodes if self.is_master(node)]

    def is_master(self, node: Store) -> bool:
        """Whether a node answers and is a master."""
        try:
            with node.client(socket_timeout=1) as client:
                return bool(client.execute_command("ROLE")[0] == b"master")
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            return False

    def replicas_of(self, master: Store) -> list[Store]:
        """The nodes that replicate a master."""
        with master.client() as client:
            ports = {int(port) for _, port, _ in client.execute_command("ROLE")[2]}
        return [node for node in self.nodes if node.port in ports]

    def owner(self, slot: int) -> Store:
        """The master of a slot, as most masters say."""
        for node in self.nodes:
            with contextlib.suppress(redis.exceptions.ConnectionError), node.client() as client:
                for first, last, (_, port, *_rest), *_more in client.execute_command("CLUSTER", "SLOTS"):
                    if int(first) <= slot <= int(last):
                        return next(other for other in self.nodes if self.shown_port(other) == int(port))
        raise AssertionError(f"no node knows slot {slot}")

    @property
    def url(self) -> str:
        scheme = "rediss-cluster" if self._tls else "redis-cluster"
        return f"{scheme}://{','.join(f'127.0.0.1:{self.port_of(node)}' for node in self.nodes[:3])}"

    def fail_over(self, replica: Store) -> float:
        """Makes a replica the master without losing a write; returns the seconds that this took."""
        started = time.monotonic()
        with replica.client() as client:
            client.execute_command("CLUSTER", "FAILOVER")
        until(lambda: self.is_master(replica), within=30, every=0.01)
        return time.monotonic() - started

    def move_slot(
        self, slot: int, source: Store, target: Store, *, pause: float = 0, keys: int | None = None, ends: bool = True
    ) -> None:
        """Moves a slot key by key, as `redis-cli --cluster reshard` does.

        Moves only up to `keys` keys if it is given; unless `ends`, the nodes still redirect with ASK afterwards.
        """
        self.begin_move(slot, source, target)
        with source.client() as client:
            while found := client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, keys or 10):
                client.execute_command("MIGRATE", "127.0.0.1", self.port_of(target), "", 0, 10_000, "KEYS", *found)
                if keys:
                    return
                time.sleep(pause)
        if ends:
            self.end_move(slot, target)

    def begin_move(self, slot: int, source: Store, target: Store) -> None:
        with target.client() as client:
            client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        with source.client() as client:
            client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))

    def add_master(self) -> Store:
        """Adds a master without slots."""
        node = self.started()
        self._meet(node, self.nodes[0])
        self.nodes.append(node)
        self._masters += 1
        until(lambda: all(self._known(other) == len(self.nodes) for other in self.nodes), within=20)
        self.settle(0)
        return node

    def ranges_of(self, master: Store) -> list[tuple[int, int]]:
        """The ranges of slots of a master, according to this master."""
        with master.client() as client:
            found = client.execute_command("CLUSTER", "SLOTS")
        return [
            (int(first), int(last)) for first, last, (_, port, *_), *_ in found if int(port) == self.shown_port(master)
        ]

    def migrate_slots(self, first: int, last: int, source: Store, target: Store) -> None:
        """Moves a range of slots at once (Valkey 9), and waits until the target has the slots."""
        with source.client() as client:
            client.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", self.id_of(target))

            def states() -> list[str]:
                found = [dict(job) for job in client.execute_command("CLUSTER", "GETSLOTMIGRATIONS")]
                of_range = [job for job in found if job[b"slot_ranges"].decode() == f"{first}-{last}"]
                return [job[b"state"].decode() for job in of_range]

            until(lambda: set(states()) - {"failed", "canceled"} <= {"success"} and "success" in states(), within=30)

    def end_move(self, slot: int, target: Store) -> None:
        for node in [target, *(master for master in self.masters if master is not target)]:
            with node.client() as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """A redis-py client of the whole cluster."""
        nodes = redis.cluster.RedisCluster(
            host="127.0.0.1", port=self.nodes[0].port or 0, retry=Retry(NoBackoff(), 3), protocol=2
        )
        try:
            yield nodes
        finally:
            nodes.close()

    def empty(self) -> None:
        for node in self.nodes:
            with node.client() as client:  # without a timeout: a master that is skipped would keep its users
                if client.execute_command("ROLE")[0] == b"master":
                    client.flushall()

    def close(self) -> None:
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_for_partitions(store: Cluster | Store, address: str) -> None:
    """Waits until the service at an address has created all partitions of an empty store.

    No client can empty all servers at once. If the service creates partitions meanwhile, only some of them remain, and
    the service rejects such a store. The store is then emptied again.
    """

    def is_created() -> bool:
        try:
            users.list(limit=1)
        except StoreChangedError:
            store.empty()
            return False
        return True

    with SyncUserManager(address) as users:
        until(is_created)
