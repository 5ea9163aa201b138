"""Runs several serving processes on one port, and supervises them."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from userservice_server.config import Config, ConfigError
from userservice_server.observability.log_writer import FLUSH_SECONDS, logging_to_stderr
from userservice_server.process.listen import reserved_port
from userservice_server.process.serving import ServiceEndedError, run_server
from userservice_server.process.stopping import STOP_SIGNALS, Stop

# Seconds after --grace until a worker exits by itself, and until the supervisor kills the worker. Both are below the
# limit of the supervisor itself, which otherwise would exit before its workers.
_WORKER_LIMIT_SECONDS, _KILL_SECONDS = 0.7, 0.85
_WATCH_SECONDS = 0.2
_SPAWN = multiprocessing.get_context("spawn")  # a forked child of a process that has run grpc can hang


def run_workers(config: Config, ready: Callable[[int], None], ended: Callable[[], str | None], stop: Stop) -> None:
    """Serves with ``config.process.workers`` processes. If one process exits, the others are stopped.

    Arguments and errors are those of ``serving.serve``.
    """
    with closing(reserved_port(config.listen)) as reserved:
        port = reserved.getsockname()[1]
        config = config.with_port(port)
        workers: list[SpawnProcess] = []
        stop.before_forced_exit(lambda: _kill(workers))
        try:
            readiness = [_started_worker(config, workers) for _ in range(config.process.workers)]
            for connection in readiness:
                _await_ready(connection, lambda: stop.requested or bool(ended()))
            if not stop.requested and not ended():
                ready(port)
            sentinels = [worker.sentinel for worker in workers]
            while not ended() and not wait([stop.fileno(), *sentinels], _WATCH_SECONDS):
                pass
            ends = [] if stop.requested else wait(sentinels, 0)
            lost = [worker for worker in workers if worker.sentinel in ends]
        finally:
            _end(workers, config.process.grace)
    if reason := ended():
        raise ServiceEndedError(reason)
    if lost:
        # A negative code is the number of a signal; the kernel sends -9 when memory is full.
        reasons = [f"process {worker.pid}: exit code {worker.exitcode}" for worker in lost]
        raise ServiceEndedError(f"a worker process exited unexpectedly ({'; '.join(reasons)})")


def _kill(workers: list[SpawnProcess]) -> None:
    for worker in workers:
        worker.kill()


def _started_worker(config: Config, workers: list[SpawnProcess]) -> "Connection[None, int | str]":
    receiver, sender = _SPAWN.Pipe(duplex=False)
    worker = _SPAWN.Process(target=_work, args=(config, sender), daemon=False)
    # A worker inherits the blocked signals. SIGINT stays blocked until the worker can handle it: Ctrl-C reaches the
    # whole process group and must not print a traceback. SIGTERM may end a worker that does not serve yet.
    resource_tracker.ensure_running()  # unblocks both signals when it starts the tracker
    signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGINT])
    try:
        worker.start()
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    workers.append(worker)
    sender.close()
    return receiver


def _await_ready(connection: "Connection[None, int | str]", is_over: Callable[[], bool]) -> None:
    """Waits until a worker is ready or ``is_over``. There is no time limit, because a store can take long to load."""
    with closing(connection):
        while not connection.poll(_WATCH_SECONDS):
            if is_over():
                return
        try:
            result = connection.recv()
        except EOFError:
            result = "a worker process exited during its start"
    if isinstance(result, str) and not is_over():
        raise ConfigError(result)


def _work(config: Config, sender: "Connection[int | str, None]") -> None:
    """Runs a worker until a stop is requested or the supervisor exits."""
    # A worker gets each stop signal twice: as a member of the process group and from its supervisor. To end a worker at
    # once, the supervisor kills it.
    stop = Stop(config.process.grace + _WORKER_LIMIT_SECONDS, repeat_ends=False)
    stop.start()
    supervisor = multiprocessing.parent_process()

    def ended() -> str | None:
        return None if supervisor is None or supervisor.is_alive() else "the supervisor process exited"

    def report(result: int | str) -> None:
        with suppress(OSError):  # the supervisor was stopped meanwhile and no longer reads
            sender.send(result)

    with logging_to_stderr(config.observability.log_level, lambda: min(FLUSH_SECONDS, stop.remaining() / 2)):
        try:
            run_server(config, report, ended, stop)
        except ConfigError as error:
            report(str(error))
        except ServiceEndedError:
            pass
    os._exit(0)  # without waiting for threads


def _end(workers: list[SpawnProcess], grace: float) -> None:
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + grace + _KILL_SECONDS
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
        if worker.is_alive():
            worker.kill()
    for worker in workers:
        worker.join(_WATCH_SECONDS)
