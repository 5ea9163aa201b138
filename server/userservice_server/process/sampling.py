"""Samples metrics of a worker at intervals: those of the event loop, the process, the certificate and the store."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from userservice_server.errors import ServiceError
from userservice_server.observability.audit_log import AuditLog
from userservice_server.observability.metrics.worker import WorkerMetrics
from userservice_server.process.loop_monitor import INTERVAL, LoopMonitor
from userservice_server.store.redis_store import RedisStore

_STORE_INTERVAL = 1.0  # seconds
_STEP_PAUSE = 0.02  # seconds between two steps of counting the sessions of an older store

logger = logging.getLogger("userservice.metrics")


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of the samples of a process.

    Attributes:
        audit_log: the audit log, if there is one.
        reload_failures: returns the number of failed reloads, by the name of the files.
        spans_dropped: returns the number of dropped spans.
        watch_lag: returns for how many seconds the slowest watch has been behind.
        not_after: returns the Unix time at which the certificate expires; None without TLS.
    """

    audit_log: AuditLog | None
    reload_failures: Callable[[], Mapping[str, int]]
    not_after: Callable[[], float | None]
    spans_dropped: Callable[[], int]
    watch_lag: Callable[[], float]


def sample_process(metrics: WorkerMetrics, monitor: LoopMonitor, sources: Sources) -> None:
    """Takes one sample of the event loop, the process, the watches and the certificate. An action of the monitor."""
    metrics.show_loop(monitor.largest_lag(), time.monotonic() + INTERVAL)
    dropped = sources.audit_log.dropped if sources.audit_log else 0
    metrics.show_watch_lag(sources.watch_lag())
    metrics.show_process(dropped, sources.spans_dropped(), sources.reload_failures())
    if (not_after := sources.not_after()) is not None:
        metrics.show_certificate(not_after)


async def sample_store(metrics: WorkerMetrics, store: RedisStore) -> None:
    """Samples the size of the store until cancelled. Also counts the sessions of a store without a session count."""
    is_failing = False
    while True:
        pause = _STORE_INTERVAL
        try:
            sizes = await store.sizes()
            metrics.show_store(sizes.users, sizes.sessions)
            if sizes.sessions is None and await store.count_more_sessions():
                pause = _STEP_PAUSE
            is_failing = False
        except ServiceError:
            pass  # the supervision of the store logs why it is unavailable
        except Exception as error:  # noqa: BLE001 - a fault of the metrics must not end the service
            if not is_failing:
                logger.error("the size of the store cannot be read", extra={"cause": type(error).__name__})  # noqa: TRY400
            is_failing = True
        await asyncio.sleep(pause)
