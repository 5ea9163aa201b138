"""Runs several serving processes on one port: starts them, restarts those that exit, and stops them."""

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import wait

from userservice_server.config import Config, ConfigError
from userservice_server.process.heartbeats import BLOCKED_SECONDS, Heartbeats
from userservice_server.process.listen import reserved_port
from userservice_server.process.metrics import Metrics
from userservice_server.process.serving import ServiceEndedError
from userservice_server.process.stopping import Stop
from userservice_server.process.systemd import Systemd
from userservice_server.process.worker import SPAWN, Failed, Loading, Ready, Worker

MOST_RESTARTS, RESTART_PERIOD = 5, 60.0  # more restarts within this time would only hide a fault
# A signal to the process group can end a worker before the supervisor has noticed the same signal.
_RESTART_PAUSE = 0.2
# Seconds after --grace until the supervisor kills a worker. Below the limit of the supervisor itself, which otherwise
# would exit before its workers.
_KILL_SECONDS = 0.85
_WATCH_SECONDS = 0.2

logger = logging.getLogger("userservice")


def run_workers(
    config: Config,
    ready: Callable[[int], None],
    ended: Callable[[], str | None],
    stop: Stop,
    systemd: Systemd,
    metrics: Metrics | None = None,
) -> None:
    """Serves with ``config.process.workers`` processes.

    Arguments and errors are those of ``serving.serve``; ``systemd`` receives reports about all workers, and ``metrics``
    has a slot for each worker.
    """
    with closing(reserved_port(config.listen)) as reserved:
        port = reserved.getsockname()[1]
        supervisor = Supervisor(config.with_port(port), _heartbeats(config), ended, stop, systemd, metrics)
        stop.before_forced_exit(supervisor.kill)
        try:
            supervisor.start()
            if not stop.requested and not ended():
                ready(port)
            supervisor.watch()
        finally:
            supervisor.end()
    if reason := ended():
        raise ServiceEndedError(reason)


def _heartbeats(config: Config) -> Heartbeats:
    try:
        return Heartbeats(SPAWN, config.process.workers)
    except OSError as error:
        raise ConfigError(
            f"--workers needs shared memory, which is not available ({error.strerror}): mount /dev/shm writable, with "
            "free space"
        ) from None


class Supervisor:
    """Starts, restarts and stops the worker processes. A replacement has the slot of the worker that it replaces.

    Args:
        config: the settings, with the port.
        heartbeats: the heartbeats of all workers.
        ended: called several times a second; returns a reason if a process that the service needs has exited.
        stop: shows whether a stop was requested.
        systemd: receives pings while the event loops of all workers run.
        metrics: the metrics of all workers; None: nothing is measured.
    """

    def __init__(
        self,
        config: Config,
        heartbeats: Heartbeats,
        ended: Callable[[], str | None],
        stop: Stop,
        systemd: Systemd,
        metrics: Metrics | None,
    ) -> None:
        self._config = config
        self._ended = ended
        self._stop = stop
        self._systemd = systemd
        self._metrics = metrics
        self._heartbeats = heartbeats
        self._workers: list[Worker] = []  # by slot
        self._restart_times: deque[float] = deque(maxlen=MOST_RESTARTS)
        # A short watchdog interval requires a lower limit.
        self._heartbeat_limit = min(BLOCKED_SECONDS, systemd.ping_interval or BLOCKED_SECONDS)

    def start(self) -> None:
        """Starts the workers and waits until all are ready. There is no time limit, because a store can load for long.

        Raises:
            ConfigError: a worker cannot start.
        """
        for slot in range(self._config.process.workers):
            self._workers.append(self._started(slot, is_replacement=False))
        while not self._is_over() and not all(worker.is_ready for worker in self._workers):
            self._wait()
            for worker in self._workers:
                has_exited = worker.has_exited  # first, because a worker can send reports until it exits
                for report in worker.take_reports():
                    if isinstance(report, Loading):
                        self._systemd.loading()
                    elif isinstance(report, Failed) and not self._is_over():
                        raise ConfigError(report.reason)
                if has_exited and not self._is_over():
                    raise ConfigError(f"a worker process exited during its start ({worker.describe_exit()})")

    def watch(self) -> None:
        """Restarts workers that exit, until a stop is requested.

        Raises:
            ServiceEndedError: workers exited too often.
        """
        while not self._is_over():
            if self._heartbeats.are_recent(self._heartbeat_limit):
                self._systemd.ping()
            self._wait()
            for worker in tuple(self._workers):
                has_exited = worker.has_exited  # first, because a worker can send reports until it exits
                for report in worker.take_reports():
                    if isinstance(report, Ready):
                        logger.info("the restarted worker process is ready", extra={"slot": worker.slot})
                if has_exited:
                    self._restart(worker)

    def end(self) -> None:
        """Stops all workers: asks them to drain, and kills those that do not exit in time."""
        for worker in self._workers:
            worker.terminate()
        deadline = time.monotonic() + self._config.process.grace + _KILL_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            if not worker.has_exited:
                worker.kill()
        for worker in self._workers:
            worker.join(_WATCH_SECONDS)

    def kill(self) -> None:
        """Ends all workers at once."""
        for worker in self._workers:
            worker.kill()

    def _is_over(self) -> bool:
        return self._stop.requested or bool(self._ended())

    def _wait(self) -> None:
        wait([self._stop.fileno(), *(event for worker in self._workers for event in worker.events)], _WATCH_SECONDS)

    def _started(self, slot: int, *, is_replacement: bool) -> Worker:
        return Worker(self._config, slot, self._heartbeats, self._metrics, is_replacement=is_replacement)

    def _restart(self, worker: Worker) -> None:
        if wait([self._stop.fileno()], _RESTART_PAUSE):
            return
        now, fields = time.monotonic(), {"slot": worker.slot, "reason": worker.describe_exit()}
        if len(self._restart_times) == MOST_RESTARTS and now - self._restart_times[0] < RESTART_PERIOD:
            raise ServiceEndedError(
                f"a worker process exited unexpectedly ({fields['reason']}) after {MOST_RESTARTS} restarts within "
                f"{RESTART_PERIOD:g} s"
            )
        logger.error("a worker process exited unexpectedly and is restarted", extra=fields)
        self._restart_times.append(now)
        if self._metrics is not None:
            self._metrics.count_restart()
        try:
            replacement = self._started(worker.slot, is_replacement=True)
        except OSError as error:  # no memory or no process id is left; the next attempt is a restart too
            logger.error("cannot start a worker process", extra={"slot": worker.slot, "reason": error.strerror})  # noqa: TRY400
            return
        self._workers[worker.slot] = replacement
        worker.close()
