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
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.exceptions import BusyLoadingError

from userservice.v1 import session_service_pb2, user_service_pb2
from userservice_server.config import Config, ConfigError, unreadable_redis_url
from userservice_server.domain.sessions import Sessions
from userservice_server.domain.stream_memory import ReadLimit
from userservice_server.domain.users import Users
from userservice_server.errors import StoreUnavailableError
from userservice_server.listen import cannot_listen, reserved_port
from userservice_server.store.failures import is_final, why
from userservice_server.store.redis_store import RedisStore, UnsuitableStoreError
from userservice_server.transport.drain import Drain
from userservice_server.transport.handlers import service_handler
from userservice_server.transport.health import Health
from userservice_server.transport.interceptors import Settings
from userservice_server.transport.limits import Limits
from userservice_server.transport.reflection import enable_reflection
from userservice_server.transport.session_servicer import SessionServicer
from userservice_server.transport.user_servicer import UserServicer

USER_SERVICE = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]
SESSION_SERVICE = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
SERVICE_NAMES = (USER_SERVICE.full_name, SESSION_SERVICE.full_name)

_STORE_START_SECONDS = 5.0  # how long a store that is being started beside the service may take to answer
_STORE_RETRY_SECONDS = 0.1
_WATCH_SECONDS = 0.2
_MAX_PENDING = 100_000
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
    health, drain = Health(store, SERVICE_NAMES), Drain(config.max_calls)
    server = _server(config, store, health, drain)
    port = _bound_port(server, config)
    await health.look()  # before the first answer: until then it knows no service
    await server.start()
    following = asyncio.create_task(health.follow_store())
    watching = asyncio.create_task(_until_ended(ended))
    stopped = asyncio.create_task(stop.wait())
    gc.freeze()  # what is there now stays: the garbage collector need not look through it again and again
    ready(port)
    logger.info("serving", extra={"port": port})

    causes: tuple[asyncio.Task[Any], ...] = (following, watching, stopped)
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
    """Waits for the store: a while for one that does not answer, as long as it takes for one that is loading.

    One that refuses the password, or shows a certificate that nobody vouches for, is not waited for.
    """
    try:
        store = RedisStore(redis_url, key_prefix=config.key_prefix, timeout=config.store_timeout)
    except ValueError:
        raise unreadable_redis_url() from None
    deadline = asyncio.get_running_loop().time() + _STORE_START_SECONDS
    is_told = False
    while not is_over():
        try:
            await store.open()
        except UnsuitableStoreError as error:
            await store.close()
            raise ConfigError(str(error)) from error
        except StoreUnavailableError as error:
            is_loading = isinstance(error.__cause__, BusyLoadingError)
            if is_final(error) or (not is_loading and asyncio.get_running_loop().time() > deadline):
                await store.close()
                raise ConfigError(f"the store at --redis-url does not answer: {why(error)}") from error
            if is_loading and not is_told:
                is_told = True
                logger.info("waiting for the store, which is loading its data")
            await asyncio.sleep(_STORE_RETRY_SECONDS)
        else:
            break
    return store


def _server(config: Config, store: RedisStore, health: Health, drain: Drain) -> grpc.aio.Server:
    reads, limits = ReadLimit(), Limits()
    users, sessions = Users(store, reads), Sessions(store, reads)
    server = grpc.aio.server(
        options=[
            # By default grpc shares a taken port silently; only workers of one service are meant to share.
            ("grpc.so_reuseport", int(config.workers > 1)),
            # grpc's own bounds refuse calls at random and without details; --max-calls is ours.
            ("grpc.server.max_pending_requests", _MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
        ]
    )
    handler = partial(
        service_handler,
        settings=Settings(call_timeout=config.call_timeout, access_log=config.access_log, limits=limits),
        track=drain.track,
    )
    server.add_generic_rpc_handlers(
        [
            handler(USER_SERVICE, UserServicer(users, sessions, drain, limits, config.stall_timeout)),
            handler(SESSION_SERVICE, SessionServicer(sessions)),
        ]
    )
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    enable_reflection((*SERVICE_NAMES, health_name), server)
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
