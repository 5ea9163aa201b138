"""Publishes the health of the service: SERVING while the store is available and credentials can be verified."""

from collections.abc import Iterable

from userservice_server.store.supervision import Availability
from userservice_server.transport import health_servicer
from userservice_server.transport.descriptors import HEALTH
from userservice_server.transport.health_servicer import HealthServicer

OVERALL = ""  # the name of the whole server in the health protocol


class Health:
    """The state behind the standard health service.

    Attributes:
        servicer: the servicer of the standard health service.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self.servicer = HealthServicer(HEALTH)
        self._services = (OVERALL, *services)
        self._store: Availability | None = None
        self._can_authenticate = True

    async def show(self, store: Availability) -> None:
        """Reports SERVING if the store is available, else NOT_SERVING."""
        self._store = store
        self._show()

    def show_authentication(self, can_authenticate: bool) -> None:  # noqa: FBT001 - as a callback has it
        """Reports NOT_SERVING while tokens cannot be verified."""
        self._can_authenticate = can_authenticate
        if self._store is not None:
            self._show()

    def _show(self) -> None:
        is_serving = self._store is Availability.UP and self._can_authenticate
        status = health_servicer.SERVING if is_serving else health_servicer.NOT_SERVING
        for service in self._services:
            self.servicer.set(service, status)

    async def end(self) -> None:
        """Reports NOT_SERVING from now on, because the server shuts down; later states are ignored."""
        self.servicer.end()
