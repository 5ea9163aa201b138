"""The standard health service (grpc.health.v1): Check, List and Watch."""

import asyncio

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from userservice_server.errors import ServerShuttingDownError
from userservice_server.transport.call import Call, Load
from userservice_server.transport.status import ProtocolError

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3  # HealthCheckResponse.ServingStatus
LOADS = {"Check": Load.PROBE, "List": Load.PROBE, "Watch": Load.WATCH}


class HealthServicer:
    """Returns the statuses that were set last. A service is unknown until its first status is set.

    Args:
        service: descriptor of the health service.
    """

    def __init__(self, service: ServiceDescriptor) -> None:
        self._response = GetMessageClass(service.methods_by_name["Check"].output_type)
        self._list_response = GetMessageClass(service.methods_by_name["List"].output_type)
        self._statuses: dict[str, int] = {}
        self._watching: set[asyncio.Future[None]] = set()
        self._is_ending = False

    def set(self, service: str, status: int) -> None:
        """Changes the status of a service, unless the server is shutting down."""
        if not self._is_ending:
            self._statuses[service] = status
            self._wake_watches()

    def end(self, *, except_for: str) -> None:
        """Sets all statuses but one permanently to NOT_SERVING; ends all watches after they have sent their status."""
        self._statuses = {
            service: status if service == except_for else NOT_SERVING for service, status in self._statuses.items()
        }
        self._is_ending = True
        self._wake_watches()

    async def Check(self, request: "Message", _call: Call) -> bytes:
        status = self._statuses.get(_name_in(request))
        if status is None:
            text = "unknown service; List returns the services that have a status"
            raise ProtocolError(grpc.StatusCode.NOT_FOUND, text)
        return self._encoded(status)

    async def List(self, _request: Message, _call: Call) -> bytes:
        statuses = {service: self._response(status=status) for service, status in self._statuses.items()}
        return self._list_response(statuses=statuses).SerializeToString()

    async def Watch(self, request: Message, call: Call) -> bytes:
        service, sent = _name_in(request), None
        while True:
            status = self._statuses.get(service, SERVICE_UNKNOWN)
            if status != sent:
                await call.context.write(self._encoded(status))
                call.count_sent()
                sent = status
            elif self._is_ending:
                raise ServerShuttingDownError("the server is shutting down", next_cursor=0)
            else:
                await self._change()

    async def _change(self) -> None:
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watching.add(changed)
        try:
            await changed
        finally:
            self._watching.discard(changed)

    def _wake_watches(self) -> None:
        for changed in self._watching:
            if not changed.done():  # it may have been cancelled in this turn
                changed.set_result(None)

    def _encoded(self, status: int) -> bytes:
        return self._response(status=status).SerializeToString()


def _name_in(request: Message) -> str:
    return str(request.service)  # type: ignore[attr-defined]  # a class made from a descriptor
