"""A worker process: the code that runs in the process, and the object by which the supervisor controls it."""

import faulthandler
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection

from userservice_server.config import Config, ConfigError
from userservice_server.observability.log_handler import load_handler
from userservice_server.observability.log_writer import FLUSH_SECONDS, logging_to_stderr
from userservice_server.process.heartbeats import Heartbeats
from userservice_server.process.metrics import Metrics
from userservice_server.process.serving import Reports, ServiceEndedError, run_server
from userservice_server.process.standard_streams import STDERR
from userservice_server.process.stopping import STOP_SIGNALS, Stop
from userservice_server.store.supervision import START_SECONDS

SPAWN = get_context("spawn")  # a forked child of a process that has run grpc can hang
_LIMIT_SECONDS = 0.7  # from the end of --grace until a worker forces its own exit; below the limit of the supervisor


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker serves calls."""


@dataclass(frozen=True, slots=True)
class Loading:
    """The worker waits for the store, which loads its data."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot serve and exits; the reason is one line for the operator."""

    reason: str


Report = Ready | Loading | Failed


class Worker:
    """A worker process, which starts when the object is created.

    Args:
        config: the settings.
        slot: the number of the worker, from 0. A worker that replaces another one has the same slot.
        heartbeats: the heartbeats of all workers.
        is_replacement: whether the worker replaces one that exited. It then waits for an unavailable store without a
            limit, because the other workers also stay until the store is available again.
        metrics: the metrics of all workers; the worker takes over those of its slot. None: nothing is measured.

    Attributes:
        slot: the number of the worker.
        is_ready: whether the worker has reported that it serves calls.
    """

    def __init__(
        self, config: Config, slot: int, heartbeats: Heartbeats, metrics: Metrics | None, *, is_replacement: bool
    ) -> None:
        self.slot = slot
        self.is_ready = False
        self._fault: str | None = None
        self._reports, sender = SPAWN.Pipe(duplex=False)
        limit = inf if is_replacement else START_SECONDS
        arguments = (config, slot, heartbeats, metrics, limit, sender)
        self._process = SPAWN.Process(target=_work, args=arguments, daemon=False)
        heartbeats.expect(slot)
        # A worker inherits the blocked signals. SIGINT stays blocked until the worker can handle it: Ctrl-C reaches the
        # whole process group and must not print a traceback. SIGTERM may end a worker that does not serve yet.
        resource_tracker.ensure_running()  # unblocks both signals when it starts the tracker
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGINT])
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        sender.close()

    @property
    def events(self) -> "list[int | Connection[None, Report]]":
        """Objects that become readable when the worker exits or sends a report."""
        return [self._process.sentinel] if self._reports.closed else [self._process.sentinel, self._reports]

    @property
    def has_exited(self) -> bool:
        """Whether the process has exited."""
        return not self._process.is_alive()

    def take_reports(self) -> Iterator[Report]:
        """Yields the reports that have arrived."""
        try:
            while not self._reports.closed and self._reports.poll():
                report = self._reports.recv()
                self.is_ready = self.is_ready or isinstance(report, Ready)
                if isinstance(report, Failed):
                    self._fault = report.reason
                yield report
        except EOFError:  # the worker has exited
            self._reports.close()

    def describe_exit(self) -> str:
        """Returns why the worker exited, as far as it is known."""
        # A negative code is the number of a signal; the kernel sends -9 when memory is full.
        return self._fault or f"process {self._process.pid}: exit code {self._process.exitcode}"

    def terminate(self) -> None:
        """Asks the worker to drain and exit."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends the worker at once."""
        self._process.kill()

    def join(self, seconds: float) -> None:
        """Waits for the exit of the worker."""
        self._process.join(seconds)

    def close(self) -> None:
        """Releases the resources of a worker that has exited."""
        self._reports.close()
        self._process.close()


def _work(
    config: Config,
    slot: int,
    heartbeats: Heartbeats,
    metrics: Metrics | None,
    store_limit: float,
    sender: "Connection[Report, None]",
) -> None:
    """Runs a worker until a stop is requested or the supervisor exits."""
    faulthandler.enable(STDERR)  # see cli/serve.py
    # A worker gets each stop signal twice: as a member of the process group and from its supervisor. To end a worker at
    # once, the supervisor kills it.
    stop = Stop(config.process.grace + _LIMIT_SECONDS, repeat_ends=False)
    stop.start()
    supervisor = parent_process()

    def ended() -> str | None:
        return None if supervisor is None or supervisor.is_alive() else "the supervisor process exited"

    def report(report: Report) -> None:
        with suppress(OSError):  # the supervisor was stopped meanwhile and no longer reads
            sender.send(report)

    reports = Reports(
        loading=lambda: report(Loading()),
        beat=partial(heartbeats.beat, slot),
        are_loops_running=heartbeats.are_recent,
        store_limit=store_limit,
        metrics=metrics.worker(slot) if metrics else None,
    )
    flush_seconds = lambda: min(FLUSH_SECONDS, stop.remaining() / 2)  # noqa: E731
    try:
        handler = load_handler(config.observability.log_handler)  # see cli/serve.py
        with (
            logging_to_stderr(config.observability.log_level, flush_seconds, slot, handler),
            suppress(ServiceEndedError),
        ):
            run_server(config, lambda _port: report(Ready()), ended, stop, reports)
    except ConfigError as error:
        report(Failed(str(error)))
    os._exit(0)  # without waiting for threads
