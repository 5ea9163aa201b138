"""Builds the grpc server of a process: creates the services and the objects that they share."""

from functools import partial
from typing import TYPE_CHECKING

import grpc

from userservice.v1 import session_service_pb2, user_service_pb2
from userservice_server.config import Config
from userservice_server.domain.feed import Feed
from userservice_server.domain.imports import Imports
from userservice_server.domain.sessions import Sessions
from userservice_server.domain.snapshots import Snapshots
from userservice_server.domain.stream_memory import ReadLimit
from userservice_server.domain.users import Users
from userservice_server.domain.watches import Watches
from userservice_server.errors import InvalidFieldsError, ServiceError, UserAlreadyExistsError, Violation
from userservice_server.observability.audit_log import AuditLog
from userservice_server.observability.metrics.calls import CallMetrics
from userservice_server.process.listen import cannot_listen, grpc_address, reserved_port
from userservice_server.process.unix_socket import claimed_path
from userservice_server.store.imports import RedisImports
from userservice_server.store.redis_store import RedisStore
from userservice_server.transport import health_servicer, reflection_servicer, user_servicer
from userservice_server.transport.admission import Admission
from userservice_server.transport.channel_options import server_options
from userservice_server.transport.deadlines import Deadlines
from userservice_server.transport.descriptors import HEALTH, POOL, REFLECTION_V1, REFLECTION_V1ALPHA
from userservice_server.transport.drain import Drain
from userservice_server.transport.handlers import service_handler
from userservice_server.transport.health import Health
from userservice_server.transport.interceptors import Settings
from userservice_server.transport.reflection_servicer import ReflectionServicer
from userservice_server.transport.session_servicer import SessionServicer
from userservice_server.transport.status import row_status
from userservice_server.transport.streaming import Streaming
from userservice_server.transport.unknown_methods import UnknownMethods
from userservice_server.transport.unread import UnreadResponses
from userservice_server.transport.user_servicer import UserServicer
from userservice_server.wire.imports import status_field

if TYPE_CHECKING:
    from userservice_server.observability.tracing.spans import CallSpans
    from userservice_server.transport.credentials.authentication import Authentication
    from userservice_server.transport.tls import ServerTls

USER_SERVICE = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]
SESSION_SERVICE = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
OWN_SERVICES = (USER_SERVICE, SESSION_SERVICE)
SERVICE_NAMES = (USER_SERVICE.full_name, SESSION_SERVICE.full_name)
STANDARD_SERVICES = (HEALTH, REFLECTION_V1, REFLECTION_V1ALPHA)


# The errors that the script of imports writes.
_SCRIPT_ERRORS = (
    UserAlreadyExistsError("the user already exists"),
    InvalidFieldsError([Violation("id", "is the id of another user; restored ids must be unique")]),
)


def _row_status(error: ServiceError) -> bytes:
    return status_field(row_status(error))


def make_server(
    config: Config,
    store: RedisStore,
    feed: Feed,
    health: Health,
    drain: Drain,
    authentication: "Authentication | None",
    audit_log: AuditLog | None,
    metrics: CallMetrics | None,
    tracing: "CallSpans | None" = None,
) -> grpc.aio.Server:
    """Returns a server with all services. The server is not bound to a port yet."""
    reads, deadlines = ReadLimit(), Deadlines()
    users, sessions = Users(store, reads), Sessions(store, reads)
    imports = Imports(store, RedisImports(store, *map(_row_status, _SCRIPT_ERRORS)), _row_status)
    watches = Watches(feed, Snapshots(store, users))
    streaming = Streaming(drain, deadlines, config.limits.stall_timeout)
    server = grpc.aio.server(options=server_options(config))
    handler = partial(
        service_handler,
        settings=Settings(
            call_timeout=config.limits.call_timeout,
            stall_timeout=config.limits.stall_timeout,
            access_log=config.observability.access_log,
            deadlines=deadlines,
            drain=drain,
            admission=Admission(config.limits.max_calls),
            unread=UnreadResponses(),
            authentication=authentication,
            audit_log=audit_log,
            metrics=metrics,
            tracing=tracing,
            read_only=config.process.read_only,
        ),
    )
    names = (*SERVICE_NAMES, *(service.full_name for service in STANDARD_SERVICES))
    reflected = ReflectionServicer(names, POOL, deadlines, config.limits.stall_timeout)
    server.add_generic_rpc_handlers(
        [
            handler(
                USER_SERVICE,
                UserServicer(users, sessions, imports, watches, streaming),
                loads=user_servicer.LOADS,
                request_classes=user_servicer.REQUEST_CLASSES,
            ),
            handler(SESSION_SERVICE, SessionServicer(sessions)),
            handler(HEALTH, health.servicer, loads=health_servicer.LOADS),
            handler(REFLECTION_V1, reflected, loads=reflection_servicer.LOADS),
            handler(REFLECTION_V1ALPHA, reflected, loads=reflection_servicer.LOADS),
        ]
    )
    # Last, because grpc queries the handlers in order.
    server.add_generic_rpc_handlers([UnknownMethods(metrics, tracing)])
    return server


def bind(server: grpc.aio.Server, config: Config, tls: "ServerTls | None") -> int:
    """Binds the server to the port or Unix socket of the settings; returns the port.

    Raises:
        ConfigError: The service cannot listen on this address.
    """
    if config.listen.socket is not None:
        with claimed_path(config.listen):
            return _add_port(server, config, tls)
    if config.process.workers == 1:
        reserved_port(config.listen).close()
    return _add_port(server, config, tls)


def _add_port(server: grpc.aio.Server, config: Config, tls: "ServerTls | None") -> int:
    try:
        address = grpc_address(config.listen)
        return server.add_secure_port(address, tls.credentials()) if tls else server.add_insecure_port(address)
    except RuntimeError:
        is_port = config.listen.socket is None
        why = "the address is already in use" if is_port else "the socket cannot be created in its directory"
        raise cannot_listen(config.listen, why) from None
