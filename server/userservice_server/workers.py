"""Several serving processes on one port, and the process that looks after them."""

import multiprocessing
import signal
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from userservice_server.app import ServiceEndedError, run_server
from userservice_server.config import Config, ConfigError
from userservice_server.listen import reserved_port
from userservice_server.logs import logging_to_stderr

_BEYOND_GRACE_SECONDS = 5.0
_WATCH_SECONDS = 0.2
_SPAWN = multiprocessing.get_context("spawn")  # a forked child of a process that has run grpc can hang


def run_workers(config: Config, redis_url: str, ready: Callable[[int], None], ended: Callable[[], str | None]) -> None:
    """Serves with ``config.workers`` processes; arguments and errors as for app.serve. A worker's end ends all."""
    stopped = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    with closing(reserved_port(config)) as reserved:
        port = reserved.getsockname()[1]
        config = replace(config, listen=f"{config.host}:{port}")
        workers: list[SpawnProcess] = []
        try:
            readiness = [_started_worker(config, redis_url, workers) for _ in range(config.workers)]
            for connection in readiness:
                _await_ready(connection, lambda: stopped or bool(ended()))
            if not stopped and not ended():
                ready(port)
            while not stopped and not ended() and not wait([worker.sentinel for worker in workers], _WATCH_SECONDS):
                pass
            ends = [] if stopped else wait([worker.sentinel for worker in workers], 0)
            lost = [worker for worker in workers if worker.sentinel in ends]
        finally:
            _end(workers, config.grace)
    if reason := ended():
        raise ServiceEndedError(reason)
    if lost:
        # A negative code is the number of the signal: -9 often is the kernel's, for want of memory.
        reasons = [f"process {worker.pid}: exit code {worker.exitcode}" for worker in lost]
        raise ServiceEndedError(f"a worker ended by itself ({'; '.join(reasons)})")


def _started_worker(config: Config, redis_url: str, workers: list[SpawnProcess]) -> "Connection[None, int | str]":
    receiver, sender = _SPAWN.Pipe(duplex=False)
    worker = _SPAWN.Process(target=_work, args=(config, redis_url, sender), daemon=False)
    # Ctrl-C reaches the whole group. A worker has nothing to take it with until app.serve, which unblocks it.
    resource_tracker.ensure_running()  # else the first start makes it run, and unblocks signals after that
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        worker.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    workers.append(worker)
    sender.close()
    return receiver


def _await_ready(connection: "Connection[None, int | str]", is_over: Callable[[], bool]) -> None:
    """Waits until a worker serves, which can take as long as a store takes to load, or until nobody needs it to."""
    with closing(connection):
        while not connection.poll(_WATCH_SECONDS):
            if is_over():
                return
        try:
            answer = connection.recv()
        except EOFError:
            answer = "a worker ended while it started"
    if isinstance(answer, str) and not is_over():
        raise ConfigError(answer)


def _work(config: Config, redis_url: str, sender: "Connection[int | str, None]") -> None:
    """Life of a worker."""
    supervisor = multiprocessing.parent_process()

    def ended() -> str | None:
        return None if supervisor is None or supervisor.is_alive() else "the supervisor ended"

    def tell(answer: int | str) -> None:
        with suppress(OSError):  # the supervisor was stopped meanwhile, and listens no more
            sender.send(answer)

    with logging_to_stderr(config.log_level):
        try:
            run_server(config, redis_url, tell, ended)
        except ConfigError as error:
            tell(str(error))
        except ServiceEndedError:
            return


def _end(workers: list[SpawnProcess], grace: float) -> None:
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + grace + _BEYOND_GRACE_SECONDS
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
        if worker.is_alive():
            worker.kill()
            worker.join()
