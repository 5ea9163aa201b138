"""A cluster in a network that can be divided."""

import contextlib
from collections.abc import Iterator

from harness.clusters import Cluster
from harness.networks import NODES, Network
from harness.ports import free_port
from harness.stores import Store


class DivisibleCluster(Cluster):
    """A cluster in a network that can be divided."""

    def __init__(self, backend: str, network: Network, *, masters: int, replicas: int, node_timeout_ms: int) -> None:
        self._network = network
        self._ports: dict[Store, int] = {}
        self.places: dict[Store, str] = {}
        super().__init__(backend, masters=masters, replicas=replicas, node_timeout_ms=node_timeout_ms)

    def started(self, *options: str) -> Store:
        place = f"127.0.1.{len(self.places) + 1}"
        port, bus_port = free_port(), free_port()
        announced, announced_bus = (self._network.listen(place, target) for target in (port, bus_port))
        own = [
            *("--bind-source-addr", place, "--cluster-port", str(bus_port), "--cluster-announce-ip", NODES),
            *("--cluster-announce-port", str(announced), "--cluster-announce-bus-port", str(announced_bus)),
            # A client connects to all nodes at the host at which it has reached the first one.
            *("--cluster-preferred-endpoint-type", "unknown-endpoint", *options),
        ]
        node = Store(self.backend, port=port, options=[*self._options, *own])
        self._bus_ports[node], self._ports[node], self.places[node] = announced_bus, announced, place
        return self._closing.enter_context(node)

    def port_of(self, node: Store) -> int:
        return self._ports[node]

    def shown_port(self, node: Store) -> int:
        return self._ports[node]

    def url_at(self, host: str) -> str:
        """The URL for clients at one of the addresses for clients."""
        return f"redis-cluster://{','.join(f'{host}:{self.port_of(node)}' for node in self.nodes[:3])}"


@contextlib.contextmanager
def divisible_cluster(
    backend: str, *, masters: int, replicas: int, node_timeout_ms: int
) -> Iterator[tuple[Network, DivisibleCluster]]:
    with (
        Network() as network,
        DivisibleCluster(
            backend, network, masters=masters, replicas=replicas, node_timeout_ms=node_timeout_ms
        ) as cluster,
    ):
        yield network, cluster
