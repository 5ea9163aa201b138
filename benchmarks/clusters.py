"""Runs Valkey clusters without replicas."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError  # noqa: A004 - as redis-py names it

from benchmarks.errors import BenchError
from userservice_server.embedded.store import server_program

_SLOTS = 16384
_START_SECONDS = 30.0


class Node:
    """A running node.

    Attributes:
        port: its port.
        bus: the port for other nodes.
        client: a client of this node.
    """

    def __init__(self, port: int, bus: int) -> None:
        self.port, self.bus = port, bus
        self.client: Any = Redis(port=port)

    @property
    def node_id(self) -> str:
        """The id of the node in the cluster."""
        found: bytes = self.client.execute_command("CLUSTER", "MYID")
        return found.decode()

    def answers(self) -> bool:
        """Returns whether the node answers."""
        try:
            return bool(self.client.ping())
        except ConnectionError:
            return False

    def known_nodes(self) -> int:
        """Returns the number of nodes that this node has accepted; 0 while some slots have no master."""
        info: bytes = self.client.execute_command("CLUSTER", "INFO")
        if b"cluster_state:ok" not in info:
            return 0
        nodes: bytes = self.client.execute_command("CLUSTER", "NODES")
        return sum(b"handshake" not in line for line in nodes.splitlines())


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster.

    Attributes:
        url: the URL for the service.
        nodes: the masters; first those with slots, in the order of their slots.
    """

    url: str
    nodes: list[Node]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def _node(folder: Path) -> Iterator[Node]:
    node = Node(_free_port(), _free_port())
    folder.mkdir()
    command = [server_program(), "--port", str(node.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--cluster-enabled", "yes", "--cluster-port", str(node.bus)]
    command += ["--cluster-allow-replica-migration", "no"]  # a master without slots remains a master
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield node
        finally:
            process.terminate()


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"the cluster did not start within {_START_SECONDS:g} s")
        time.sleep(0.05)


def slots_of(number: int, masters: int) -> tuple[int, int]:
    """Returns the first and the last slot of a master."""
    return number * _SLOTS // masters, (number + 1) * _SLOTS // masters - 1


@contextmanager
def cluster(folder: Path, masters: int, spares: int = 0) -> Iterator[Cluster]:
    """Runs a cluster.

    Args:
        folder: the folder for the data of the nodes.
        masters: number of masters with slots.
        spares: number of masters without slots.
    """
    with ExitStack() as running:
        count = masters + spares
        nodes = [running.enter_context(_node(folder / f"node{number}")) for number in range(count)]
        for number, node in enumerate(nodes):
            _await(node.answers)
            if number < masters:
                node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots_of(number, masters))
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].bus)
        for node in nodes:
            _await(partial(_knows, node, count))
        yield Cluster(f"redis-cluster://127.0.0.1:{nodes[0].port}", nodes)


def _knows(node: Node, count: int) -> bool:
    return node.known_nodes() == count
