"""Sets up the metrics of all serving processes: the memory that they share, and the endpoint that reads it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from google.protobuf.descriptor import ServiceDescriptor

from userservice_server.config import Config, ConfigError
from userservice_server.config.watched_files import RELOADED
from userservice_server.observability.metrics import definitions
from userservice_server.observability.metrics.layout import Layout, Method
from userservice_server.observability.metrics.memory import MetricsMemory
from userservice_server.observability.metrics.worker import WorkerMetrics
from userservice_server.process.wiring import OWN_SERVICES, STANDARD_SERVICES
from userservice_server.store.events import MEASURED
from userservice_server.transport.status import RULES


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of all processes. Can be passed to a process that multiprocessing spawns."""

    memory: MetricsMemory

    def worker(self, slot: int) -> WorkerMetrics:
        """Returns the metrics of the worker that runs in this process. The first slot is 0."""
        return WorkerMetrics(layout(), self.memory.slot(slot))

    def count_restart(self) -> None:
        """Counts a restart of a worker. Only the supervisor may call it."""
        values = self.memory.slot(self.memory.slots - 1)[: layout().exemplars_start].cast("d")
        values[layout().place(definitions.WORKER_RESTARTS)] += 1


def serve_metrics(config: Config) -> Metrics | None:
    """Creates the shared memory and starts the endpoint; returns None without ``--metrics-listen``.

    Raises:
        ConfigError: the endpoint cannot listen on its address, or shared memory is not available.
    """
    if config.observability.metrics_listen is None:
        return None
    # Imported only with --metrics-listen, because the import takes about 50 ms.
    from userservice_server.observability.metrics.endpoint import MetricsEndpoint  # noqa: PLC0415
    from userservice_server.observability.metrics.exposition import Exposition  # noqa: PLC0415

    host, _, port = config.observability.metrics_listen.rpartition(":")
    workers = config.process.workers
    try:
        memory = MetricsMemory(workers + 1, layout().slot_bytes)
    except OSError as error:
        raise ConfigError(f"--metrics-listen needs shared memory, which is not available ({error.strerror})") from None
    exposition = Exposition(layout(), memory, is_supervisor=workers > 1)
    MetricsEndpoint(host, int(port), exposition.render).start()
    return Metrics(memory)


@cache
def layout() -> Layout:
    """Returns the layout of a slot, which is the same in all processes."""
    return Layout(tuple(_methods()), sorted(RULES), MEASURED, RELOADED)


def _methods() -> Iterator[Method]:
    for service in (*OWN_SERVICES, *STANDARD_SERVICES):
        yield from _methods_of(service, is_own=service in OWN_SERVICES)


def _methods_of(service: ServiceDescriptor, *, is_own: bool) -> Iterator[Method]:
    for method in service.methods:
        yield Method(service.full_name, method.name, method.client_streaming, method.server_streaming, is_own)
