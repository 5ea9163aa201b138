"""Stores on several servers, by the name of their topology; a test takes one in the place of a backend."""

from collections.abc import Callable, Mapping
from functools import partial

from harness.clusters import Cluster
from harness.sentinels import Sentinels

TOPOLOGIES: Mapping[str, Callable[[], Cluster | Sentinels]] = {
    "redis-cluster": partial(Cluster, "redis"),
    "valkey-cluster": partial(Cluster, "valkey"),
    "sentinel": Sentinels,
}
SHORT = "redis-cluster"  # the topology of `make test`; the others are long
