"""One serving process: what is wired to what, how it starts, and how it ends."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import grpc

from userservice.v1 import session_service_pb2, user_service_pb2
from userservice_server.config import Config, ConfigError, unreadable_redis_url
from userservice_server.domain.sessions import Sessions
from userservice_server.domain.users import Users
from userservice_server.errors import StoreUnavailableError
from userservice_server.listen import cannot_listen, reserved_port
from userservice_server.store.failures import UnsuitableStoreError, why
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.supervision import Supervision, wait_until_open
from userservice_server.transport import health_servicer, reflection_servicer
from userservice_server.transport.admission import Admission
from userservice_server.transport.channel_options import server_options
from userservice_server.transport.descriptors import HEALTH, POOL, REFLECTION_V1, REFLECTION_V1ALPHA
from userservice_server.transport.drain import Drain
from userservice_server.transport.handlers import service_handler
from userservice_server.transport.health import Health
from userservice_server.transport.interceptors import Settings
from userservice_server.transport.limits import Limits
from userservice_server.transport.reflection_servicer import ReflectionServicer
from userservice_server.transport.session_servicer import SessionServicer
from userservice_server.transport.unknown_methods import UnknownMethods
from userservice_server.transport.user_servicer import UserServicer

USER_SERVICE = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]
SESSION_SERVICE = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
SERVICE_NAMES = (USER_SERVICE.full_name, SESSION_SERVICE.full_name)
_STANDARD_SERVICES = (HEALTH, REFLECTION_V1, REFLECTION_V1ALPHA)

_WATCH_SECONDS = 0.2
_SETTLE_SECONDS = 0.5  # for what is left after the grace time: health watches, reflection

_new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
with suppress(ImportError):  # not made for every platform
    import uvloop

    _new_event_loop = uvloop.new_event_loop

logger = logging.getLogger("userservice")


class ServiceEndedError(Exception):
    """The service had to end although nobody asked it to; the text says why."""


def run_server(config: Config, redis_url: str, ready: Callable[[int], None], ended: Callable[[], str | None]) -> None:
    """Serves, in an event loop of its own, as ``serve`` says."""
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        runner.run(serve(config, redis_url, ready, ended))


async def serve(config: Config, redis_url: str, ready: Callable[[int], None], ended: Callable[[], str | None]) -> None:
    """Serves until SIGTERM or SIGINT, or until ``ended`` says that something it needs has ended.

    Args:
        config: the settings.
        redis_url: where the store is.
        ready: called with the port when calls are answered.
        ended: looked at several times a second; a text is the reason to end with.

    Raises:
        ConfigError: the port or the store cannot be had.
        ServiceEndedError: ended by ``ended``.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # which workers are started with, see workers.py

    store = await _opened_store(config, redis_url, lambda: stop.is_set() or bool(ended()))
    try:
        if not stop.is_set() and not ended():  # else it was to end while it waited for the store
            await _serve_store(config, store, ready, ended, stop)
    finally:
        await store.close()
    if reason := ended():
        raise ServiceEndedError(reason)


async def _serve_store(
    config: Config,
    store: RedisStore,
    ready: Callable[[int], None],
    ended: Callable[[], str | None],
    stop: asyncio.Event,
) -> None:
    health, drain = Health(SERVICE_NAMES), Drain()
    supervision = Supervision(store, health.show)
    server = _server(config, store, health, drain)
    port = _bound_port(server, config)
    await supervision.check()  # before the first call: until then the health service knows no service
    await server.start()
    supervising = asyncio.create_task(supervision.run())
    watching = asyncio.create_task(_until_ended(ended))
    stopped = asyncio.create_task(stop.wait())
    gc.freeze()  # what is there now stays: the garbage collector need not look through it again and again
    ready(port)
    logger.info("serving", extra={"port": port})

    causes: tuple[asyncio.Task[Any], ...] = (supervising, watching, stopped)
    done, _ = await asyncio.wait(causes, return_when=asyncio.FIRST_COMPLETED)
    logger.info("ending")
    await health.end()
    for task in causes:
        task.cancel()
    stopping = asyncio.create_task(server.stop(config.grace))
    await drain.finish(config.grace)
    await asyncio.wait([stopping], timeout=_SETTLE_SECONDS)
    await server.stop(0)
    await stopping
    logger.info("ended")
    for task in done:
        task.result()  # raises what ended it, if that was a failure


async def _opened_store(config: Config, redis_url: str, is_over: Callable[[], bool]) -> RedisStore:
    """Returns the store, opened unless ``is_over`` ended the waiting for it.

    Raises:
        ConfigError: the URL is invalid, or the store does not answer or cannot be used.
    """
    try:
        store = RedisStore(redis_url, key_prefix=config.key_prefix, timeout=config.store_timeout)
    except ValueError:
        raise unreadable_redis_url() from None
    try:
        await wait_until_open(store, is_over)
    except (StoreUnavailableError, UnsuitableStoreError) as error:
        await store.close()
        is_unsuitable = isinstance(error, UnsuitableStoreError)
        text = str(error) if is_unsuitable else f"the store at --redis-url does not answer: {why(error)}"
        raise ConfigError(text) from error
    return store


def _server(config: Config, store: RedisStore, health: Health, drain: Drain) -> grpc.aio.Server:
    users, sessions, limits = Users(store), Sessions(store), Limits()
    server = grpc.aio.server(options=server_options(config))
    handler = partial(
        service_handler,
        settings=Settings(
            call_timeout=config.call_timeout,
            stall_timeout=config.stall_timeout,
            access_log=config.access_log,
            limits=limits,
            drain=drain,
            admission=Admission(config.max_calls),
        ),
    )
    reflected = ReflectionServicer((*SERVICE_NAMES, *(service.full_name for service in _STANDARD_SERVICES)), POOL)
    server.add_generic_rpc_handlers(
        [
            handler(USER_SERVICE, UserServicer(users, sessions, drain, limits, config.stall_timeout)),
            handler(SESSION_SERVICE, SessionServicer(sessions)),
            handler(HEALTH, health.servicer, loads=health_servicer.LOADS),
            handler(REFLECTION_V1, reflected, loads=reflection_servicer.LOADS),
            handler(REFLECTION_V1ALPHA, reflected, loads=reflection_servicer.LOADS),
        ]
    )
    server.add_generic_rpc_handlers([UnknownMethods()])  # the last one: grpc asks handlers in order
    return server


def _bound_port(server: grpc.aio.Server, config: Config) -> int:
    if config.workers == 1:
        reserved_port(config).close()
    try:
        return server.add_insecure_port(config.listen)
    except RuntimeError:
        raise cannot_listen(config, "taken just now") from None


async def _until_ended(ended: Callable[[], str | None]) -> None:
    while not ended():  # noqa: ASYNC110 - what may end are processes, which set no event
        await asyncio.sleep(_WATCH_SECONDS)
