"""Publishes the health of the service under several names.

Readiness has the empty name and the names of the services: SERVING while the store is available and credentials can be
verified. Liveness has a name of its own, because a restart does not help while the store is unavailable.

A process with a blocked event loop answers no health check, so that a probe fails by its timeout. If there are several
workers, most probes reach another worker; therefore each worker reports whether the event loops of all workers run.
"""

from collections.abc import Iterable

from userservice_server.store.supervision import Availability
from userservice_server.transport import health_servicer
from userservice_server.transport.descriptors import HEALTH
from userservice_server.transport.health_servicer import HealthServicer

OVERALL = ""  # the name of the whole server in the health protocol
LIVENESS = "liveness"


class Health:
    """The state behind the standard health service.

    Attributes:
        servicer: the servicer of the standard health service.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self.servicer = HealthServicer(HEALTH)
        self.servicer.set(LIVENESS, health_servicer.SERVING)
        self._services = (OVERALL, *services)
        self._is_alive = True
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

    def show_liveness(self, is_alive: bool) -> None:  # noqa: FBT001 - as a callback has it
        """Reports as liveness whether the event loops of all workers run."""
        if is_alive is not self._is_alive:
            self._is_alive = is_alive
            self.servicer.set(LIVENESS, health_servicer.SERVING if is_alive else health_servicer.NOT_SERVING)

    def _show(self) -> None:
        is_serving = self._store is Availability.UP and self._can_authenticate
        status = health_servicer.SERVING if is_serving else health_servicer.NOT_SERVING
        for service in self._services:
            self.servicer.set(service, status)

    async def end(self) -> None:
        """Reports NOT_SERVING from now on, because the server shuts down; later states are ignored.

        Liveness does not change: a process that finishes its calls must not be killed.
        """
        self.servicer.end(except_for=LIVENESS)
