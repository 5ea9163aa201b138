"""The standard health service. It shows what the supervision of the store publishes."""

from collections.abc import Iterable

from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2 import HealthCheckResponse

from userservice_server.store.supervision import Availability

OVERALL = ""  # the name under which the protocol asks for the server as a whole


class Health:
    """The state behind the standard health service.

    Attributes:
        servicer: what to register with grpc.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self.servicer = health_aio.HealthServicer()
        self._services = (OVERALL, *services)

    async def show(self, store: Availability) -> None:
        """Reports SERVING if the store is available, else NOT_SERVING."""
        status = HealthCheckResponse.SERVING if store is Availability.UP else HealthCheckResponse.NOT_SERVING
        for service in self._services:
            await self.servicer.set(service, status)

    async def end(self) -> None:
        """Reports NOT_SERVING from now on, because the server shuts down; later states are ignored."""
        await self.servicer.enter_graceful_shutdown()
