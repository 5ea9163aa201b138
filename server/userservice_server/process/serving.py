"""Runs one serving process: opens the store, serves until a stop is requested, and drains running calls."""

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from userservice_server.config import Config
from userservice_server.domain.feed import Feed
from userservice_server.observability.audit_log import AuditLog
from userservice_server.observability.metrics.worker import WorkerMetrics
from userservice_server.process.feed_trimming import trim_feed
from userservice_server.process.loop_monitor import LoopMonitor
from userservice_server.process.sampling import Sources, sample_process, sample_store
from userservice_server.process.stopping import Stop
from userservice_server.process.store_opening import open_store
from userservice_server.process.sweeping import Sweeper
from userservice_server.process.tracing import start_tracing
from userservice_server.process.wiring import SERVICE_NAMES, bind, make_server
from userservice_server.store.events import combined
from userservice_server.store.feed import RedisFeed
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.supervision import START_SECONDS, Supervision
from userservice_server.transport.drain import Drain
from userservice_server.transport.health import Health

if TYPE_CHECKING:
    from userservice_server.observability.tracing.export import Tracing
    from userservice_server.process.callers import Callers

_WATCH_SECONDS = 0.2
_SETTLE_SECONDS = 0.5  # for calls that the grace period does not wait for: health watches, reflection
_FLUSH_SECONDS = 1.0  # for the export of the last spans
_CLOSE_SECONDS = 0.1  # limit of each later step of the shutdown, because no step may wait for a peer

_new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
with suppress(ImportError):  # not available on every platform
    import uvloop

    _new_event_loop = uvloop.new_event_loop

logger = logging.getLogger("userservice")


class ServiceEndedError(Exception):
    """The service exited unexpectedly; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Reports:
    """Callbacks that connect a serving process with systemd or with the supervisor of the workers.

    Attributes:
        loading: called repeatedly while the store loads its data at the start.
        beat: called by the event loop several times a second.
        are_loops_running: returns whether the event loops of all workers run.
        store_limit: seconds to wait at the start for a store that does not answer.
        metrics: the metrics of this process; None: nothing is measured.
    """

    loading: Callable[[], None]
    beat: Callable[[], None]
    are_loops_running: Callable[[], bool] = lambda: True
    store_limit: float = START_SECONDS
    metrics: WorkerMetrics | None = None


def run_server(
    config: Config, ready: Callable[[int], None], ended: Callable[[], str | None], stop: Stop, reports: Reports
) -> None:
    """Runs ``serve`` in a new event loop. The process must exit afterwards, because the loop is not closed."""
    loop = (_new_event_loop or asyncio.new_event_loop)()
    # asyncio.Runner and loop.close are not used: both wait for the threads of the default executor, and a thread can
    # hang in getaddrinfo while a name server does not answer.
    try:
        loop.run_until_complete(serve(config, ready, ended, stop, reports))
    finally:
        loop.run_until_complete(_cancelled(asyncio.all_tasks(loop)))


async def serve(
    config: Config, ready: Callable[[int], None], ended: Callable[[], str | None], stop: Stop, reports: Reports
) -> None:
    """Serves until a stop is requested, or until ``ended`` returns a reason.

    Args:
        config: the settings.
        ready: called with the port when the service is ready to serve; without meaning for a Unix socket.
        ended: called several times a second; returns a reason if a process that the service needs has exited.
        stop: handles SIGTERM and SIGINT, and limits the duration of the shutdown.
        reports: the callbacks that report the state of this process.

    Raises:
        ConfigError: the service cannot listen on the port or use the store.
        ServiceEndedError: ``ended`` returned a reason.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def notice() -> None:
        loop.remove_reader(stop.fileno())
        stopping.set()

    def noticed() -> str | None:
        if reason := ended():
            stop.request(1)  # so that the time limit also applies to this shutdown
        return reason

    def is_over() -> bool:
        return stopping.is_set() or bool(noticed())

    loop.add_reader(stop.fileno(), notice)
    monitor = LoopMonitor(reports.beat)
    monitor.start()
    tracing = start_tracing()
    events = combined([observers.store for observers in (reports.metrics, tracing) if observers is not None])
    store = await open_store(config.store, is_over, reports.loading, reports.store_limit, events)
    try:
        if not is_over():  # a stop may have been requested before the store was open
            health = Health(SERVICE_NAMES)
            monitor.add(lambda: health.show_liveness(reports.are_loops_running()))
            await _serve_store(config, store, health, ready, noticed, stopping, monitor, reports.metrics, tracing)
    finally:
        await _within(_CLOSE_SECONDS, store.close())
        if tracing is not None:
            tracing.close(min(_FLUSH_SECONDS, stop.remaining() / 2))
    if reason := noticed():
        raise ServiceEndedError(reason)


async def _serve_store(
    config: Config,
    store: RedisStore,
    health: Health,
    ready: Callable[[int], None],
    ended: Callable[[], str | None],
    stop: asyncio.Event,
    monitor: LoopMonitor,
    metrics: WorkerMetrics | None,
    tracing: "Tracing | None",
) -> None:
    drain = Drain()
    supervision = Supervision(store, health.show)
    callers = _callers(config, health)
    audit_log = AuditLog(config.observability.audit_log) if config.observability.audit_log else None
    authentication, calls = callers.authentication if callers else None, metrics.calls if metrics else None
    spans = tracing.calls if tracing else None
    feed = Feed(RedisFeed(store))
    server = make_server(config, store, feed, health, drain, authentication, audit_log, calls, spans)
    port = bind(server, config, callers.tls if callers else None)
    await supervision.check()  # before the first call: health checks fail with NOT_FOUND until then
    if callers is not None:
        await callers.start()
    await server.start()
    gc.freeze()  # these objects stay alive, so the garbage collector need not scan them again
    ready(port)
    supervising = asyncio.create_task(supervision.run())
    watching = asyncio.create_task(_until_ended(ended))
    stopped = asyncio.create_task(stop.wait())
    sweeping = None if config.process.read_only else asyncio.create_task(Sweeper(store).run())
    trimming = None if config.process.read_only else asyncio.create_task(trim_feed(store))
    sampling = _sampling(metrics, monitor, store, feed, audit_log, callers, tracing) if metrics else None
    logger.info("serving", extra={"port": port} if config.listen.socket is None else {"address": config.listen.address})

    causes: tuple[asyncio.Task[Any], ...] = (supervising, watching, stopped)
    done, _ = await asyncio.wait(causes, return_when=asyncio.FIRST_COMPLETED)
    logger.info("shutting down")
    await health.end()
    if callers is not None:
        callers.stop()
    for task in filter(None, (*causes, sweeping, trimming, sampling)):
        task.cancel()
    await _drain(server, drain, config.process.grace)
    if audit_log is not None:
        audit_log.close(_CLOSE_SECONDS)
    logger.info("shut down")
    for task in done:
        task.result()  # raises the failure that ended the service, if there was one


def _callers(config: Config, health: Health) -> "Callers | None":
    if not config.concerns_callers:
        return None
    from userservice_server.process.callers import Callers  # noqa: PLC0415 - its libraries take long to import

    return Callers(config, health.show_authentication)


def _sampling(
    metrics: WorkerMetrics,
    monitor: LoopMonitor,
    store: RedisStore,
    feed: Feed,
    audit_log: AuditLog | None,
    callers: "Callers | None",
    tracing: "Tracing | None",
) -> "asyncio.Task[None]":
    """Starts to sample the metrics that are not counted for each call."""
    reload_failures = callers.reload_failures if callers else dict
    not_after = callers.certificate_expiry if callers else lambda: None
    sources = Sources(audit_log, reload_failures, not_after, lambda: tracing.dropped if tracing else 0, feed.lag)
    monitor.add(partial(sample_process, metrics, monitor, sources))
    return asyncio.create_task(sample_store(metrics, store))


async def _drain(server: grpc.aio.Server, drain: Drain, grace: float) -> None:
    """Stops the server; running calls get ``grace`` seconds to finish."""
    stopping = asyncio.create_task(server.stop(grace))
    await drain.finish(grace)
    await asyncio.wait([stopping], timeout=_SETTLE_SECONDS)
    await _within(_CLOSE_SECONDS, server.stop(0))


async def _until_ended(ended: Callable[[], str | None]) -> None:
    while not ended():  # noqa: ASYNC110 - polls, because the exit of a process sets no event
        await asyncio.sleep(_WATCH_SECONDS)


async def _within(seconds: float, step: Coroutine[Any, Any, object]) -> None:
    """Runs a step of the shutdown, but waits for it at most ``seconds``."""
    await asyncio.wait([asyncio.create_task(step)], timeout=seconds)


async def _cancelled(tasks: set["asyncio.Task[Any]"]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)
