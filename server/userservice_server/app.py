"""One serving process: what is wired to what, how it starts, and how it ends."""

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import grpc

from userservice.v1 import session_service_pb2, user_service_pb2
from userservice_server.config import Config, ConfigError, unreadable_redis_url
from userservice_server.domain.sessions import Sessions
from userservice_server.domain.stream_memory import ReadLimit
from userservice_server.domain.users import Users
from userservice_server.errors import StoreUnavailableError
from userservice_server.listen import cannot_listen, grpc_address, reserved_port
from userservice_server.process.stopping import Stop
from userservice_server.store.failures import UnsuitableStoreError, why
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.supervision import Supervision, wait_until_open
from userservice_server.transport import health_servicer, reflection_servicer
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
from userservice_server.transport.streaming import Streaming
from userservice_server.transport.unknown_methods import UnknownMethods
from userservice_server.transport.user_servicer import UserServicer

USER_SERVICE = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]
SESSION_SERVICE = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
SERVICE_NAMES = (USER_SERVICE.full_name, SESSION_SERVICE.full_name)
_STANDARD_SERVICES = (HEALTH, REFLECTION_V1, REFLECTION_V1ALPHA)

_WATCH_SECONDS = 0.2
_SETTLE_SECONDS = 0.5  # for what is left after the grace time: health watches, reflection
_CLOSE_SECONDS = 0.1  # for each later step of the end; none of them may wait for a peer

_new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
with suppress(ImportError):  # not made for every platform
    import uvloop

    _new_event_loop = uvloop.new_event_loop

logger = logging.getLogger("userservice")


class ServiceEndedError(Exception):
    """The service had to end although nobody asked it to; the text says why."""


def run_server(
    config: Config, redis_url: str, ready: Callable[[int], None], ended: Callable[[], str | None], stop: Stop
) -> None:
    """Serves in an event loop of its own, see ``serve``. The process is expected to exit afterwards."""
    loop = (_new_event_loop or asyncio.new_event_loop)()
    # Not asyncio.Runner, and no close: both wait for the threads of the default executor, and one of them can be in
    # getaddrinfo for as long as a name server does not answer.
    try:
        loop.run_until_complete(serve(config, redis_url, ready, ended, stop))
    finally:
        loop.run_until_complete(_cancelled(asyncio.all_tasks(loop)))


async def serve(
    config: Config, redis_url: str, ready: Callable[[int], None], ended: Callable[[], str | None], stop: Stop
) -> None:
    """Serves until a stop is requested, or until ``ended`` says that something it needs has ended.

    Args:
        config: the settings.
        redis_url: where the store is.
        ready: called with the port when calls are answered.
        ended: looked at several times a second; a text is the reason to end with.
        stop: takes SIGTERM and SIGINT, and limits how long the end takes.

    Raises:
        ConfigError: the service cannot listen on the port or use the store.
        ServiceEndedError: ended by ``ended``.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def notice() -> None:
        loop.remove_reader(stop.fileno())
        stopping.set()

    def noticed() -> str | None:
        if reason := ended():
            stop.request(1)  # the limit holds for this end, too
        return reason

    loop.add_reader(stop.fileno(), notice)
    store = await _opened_store(config, redis_url, lambda: stopping.is_set() or bool(noticed()))
    try:
        if not stopping.is_set() and not noticed():  # else it was to end while it waited for the store
            await _serve_store(config, store, ready, noticed, stopping)
    finally:
        await _within(_CLOSE_SECONDS, store.close())
    if reason := noticed():
        raise ServiceEndedError(reason)


async def _within(seconds: float, step: Coroutine[Any, Any, object]) -> None:
    """Waits for a step of the end, but not for longer than this."""
    await asyncio.wait([asyncio.create_task(step)], timeout=seconds)


async def _cancelled(tasks: set["asyncio.Task[Any]"]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)


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
    gc.freeze()  # the objects of the start stay, so the garbage collector need not look through them again and again
    ready(port)
    supervising = asyncio.create_task(supervision.run())
    watching = asyncio.create_task(_until_ended(ended))
    stopped = asyncio.create_task(stop.wait())
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
    await _within(_CLOSE_SECONDS, server.stop(0))
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
        text = str(error) if is_unsuitable else f"the store at --redis-url is unavailable: {why(error)}"
        raise ConfigError(text) from error
    return store


def _server(config: Config, store: RedisStore, health: Health, drain: Drain) -> grpc.aio.Server:
    reads, deadlines = ReadLimit(), Deadlines()
    users, sessions = Users(store, reads), Sessions(store, reads)
    server = grpc.aio.server(options=server_options(config))
    handler = partial(
        service_handler,
        settings=Settings(
            call_timeout=config.call_timeout,
            stall_timeout=config.stall_timeout,
            access_log=config.access_log,
            deadlines=deadlines,
            drain=drain,
            admission=Admission(config.max_calls),
        ),
    )
    reflected = ReflectionServicer((*SERVICE_NAMES, *(service.full_name for service in _STANDARD_SERVICES)), POOL)
    server.add_generic_rpc_handlers(
        [
            handler(USER_SERVICE, UserServicer(users, sessions, Streaming(drain, deadlines, config.stall_timeout))),
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
        return server.add_insecure_port(grpc_address(config))
    except RuntimeError:
        raise cannot_listen(config, "the address is already in use") from None


async def _until_ended(ended: Callable[[], str | None]) -> None:
    while not ended():  # noqa: ASYNC110 - what may end are processes, which set no event
        await asyncio.sleep(_WATCH_SECONDS)
