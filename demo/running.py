"""Runs the service for a demo."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DemoFailedError(Exception):
    """The service did not work as documented."""


@contextmanager
def running_service(room: Path, *more_options: str) -> Iterator[str]:
    """Runs the service on a free port and yields its address; checks that it stops on SIGTERM with exit code 0."""
    options = ["--listen", "127.0.0.1:0", "--data-dir", str(room / "data"), "--access-log", "false", *more_options]
    command = [sys.executable, "-m", "userservice", "serve", *options]
    log = room / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)  # noqa: S603
    with process:
        try:
            assert process.stdout  # noqa: S101 - it is piped
            line = process.stdout.readline().strip()
            if not line.startswith("userservice listening on "):
                raise DemoFailedError(f"the service did not start:\n{log.read_text()}")
            yield line.rpartition(" ")[2]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    if process.returncode:
        raise DemoFailedError(f"the service exited with code {process.returncode}:\n{log.read_text()}")
