"""Starts the service with some load and a Prometheus with the alert rules, and draws the dashboard into a picture."""

import argparse
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from demo import dashboard, population
from demo.running import DemoFailedError, running_service
from userservice import SyncUserManager, UserServiceError

CONFIGURATION = Path(__file__).resolve().parents[1] / "deploy" / "prometheus"
_TARGET = "userservice:9464"
_INTERVAL = "2s"  # of scrapes and of evaluations of the rules
_START_SECONDS = 30
_PAUSE = 0.02  # seconds between two calls of the load


def available_port(port: int, option: str) -> int:
    """Returns the port, or any free port for 0.

    Raises:
        DemoFailedError: if the port is in use. Otherwise the demo could read another Prometheus on this port.
    """
    try:
        with socket.create_server(("127.0.0.1", port)) as probe:
            return int(probe.getsockname()[1])
    except OSError as error:
        # error.strerror also contains the address.
        reason = f"cannot listen on 127.0.0.1:{port}: {os.strerror(error.errno or 0)}"
        raise DemoFailedError(f"{reason}; choose another port with {option}") from error


def get(url: str) -> Any:
    """Returns the JSON at a URL of Prometheus."""
    with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - http, on loopback
        return json.load(response)


@contextmanager
def running_prometheus(
    room: Path,
    targets: Sequence[str],
    port: int,
    interval: str = _INTERVAL,
    change: Callable[[str], str] = lambda rules: rules,
) -> Iterator[str]:
    """Runs Debian's Prometheus with the project's configuration for other targets, and yields its URL.

    Args:
        room: folder for its files.
        targets: HOST:PORT of the metrics of each service.
        port: port to listen on.
        interval: time between two scrapes, and between two evaluations of the rules.
        change: returns the alert rules that are used in place of those of the project.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise DemoFailedError("prometheus is not installed (Debian: apt-get install prometheus)")
    (room / "alerts.yml").write_text(change((CONFIGURATION / "alerts.yml").read_text()))
    text = (CONFIGURATION / "prometheus.yml").read_text()
    configuration = room / "prometheus.yml"
    text = text.replace(f'["{_TARGET}"]', json.dumps(list(targets))).replace("interval: 15s", f"interval: {interval}")
    configuration.write_text(text)
    address = f"127.0.0.1:{port}"
    options = [f"--config.file={configuration}", f"--storage.tsdb.path={room / 'prometheus'}"]
    with (room / "prometheus.log").open("w") as log:
        command = [program, *options, f"--web.listen-address={address}"]
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603
    with process:
        try:
            _await_ready(f"http://{address}", process, room / "prometheus.log")
            yield f"http://{address}"
        finally:
            process.terminate()


def _await_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"{url}/-/ready", timeout=5):  # noqa: S310
            return
        time.sleep(0.2)
    raise DemoFailedError(f"Prometheus did not start:\n{log.read_text()}")


@contextmanager
def load(address: str) -> Iterator[None]:
    """Calls the service in a thread: adds, updates, gets, some of them of absent users, and streams of all users."""
    ended = threading.Event()

    def call(users: SyncUserManager, number: int) -> None:
        fields = population.user(number, seed=0)
        users.add(fields)
        users.update({"user_id": fields["user_id"], "metadata": {"seen": number}})
        users.get(fields["user_id"])
        if number % 10 == 0:
            list(users.list_chunked(chunk_size=100))
            with suppress(UserServiceError):
                users.get("absent")

    def run() -> None:
        with SyncUserManager(address) as users:
            for number in itertools.takewhile(lambda _: not ended.wait(_PAUSE), itertools.count()):
                with suppress(UserServiceError):
                    call(users, number)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def firing(prometheus: str) -> list[str]:
    """Returns the names of the alerts that fire."""
    alerts = get(f"{prometheus}/api/v1/alerts")["data"]["alerts"]
    return sorted({alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"})


def alerts_page(prometheus: str) -> str:
    """Returns the address of the page of alerts. Debian's Prometheus has it elsewhere than other builds."""
    page = f"{prometheus}/alerts"
    try:
        with urllib.request.urlopen(page, timeout=10):  # noqa: S310 - a Prometheus that this program started
            return page
    except urllib.error.HTTPError:
        return f"{prometheus}/classic/alerts"


def demonstrate(arguments: argparse.Namespace) -> None:
    """Runs everything until the picture is drawn, and with `--stay` until a signal."""
    metrics = f"127.0.0.1:{available_port(arguments.metrics_port, '--metrics-port')}"
    port = available_port(arguments.prometheus_port, "--prometheus-port")
    with ExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="userservice-monitoring-")))
        address = stack.enter_context(running_service(room, "--workers", "2", "--metrics-listen", metrics))
        prometheus = stack.enter_context(running_prometheus(room, [metrics], port))
        stack.enter_context(load(address))
        print(f"service     {address}\nmetrics     http://{metrics}/metrics", flush=True)
        print(f"alerts      {alerts_page(prometheus)}\nthe picture takes {arguments.seconds} s", flush=True)
        start = time.time()
        time.sleep(arguments.seconds)
        empty = dashboard.draw(prometheus, start, time.time(), arguments.picture)
        print(f"picture     {arguments.picture.resolve()}")
        print(f"no data     {', '.join(empty) or 'none'}")
        print(f"firing      {', '.join(firing(prometheus)) or 'none'}", flush=True)
        if arguments.stay:
            print("Ctrl-C ends the service and Prometheus", flush=True)
            signal.pause()


def main() -> None:
    """Reads the command line and runs the demo."""
    parser = argparse.ArgumentParser(prog="python -m demo.monitoring", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="time until the picture (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=Path("dashboard.png"), help="default: %(default)s")
    parser.add_argument("--metrics-port", type=int, default=9464, help="0: a free port (default: %(default)s)")
    parser.add_argument("--prometheus-port", type=int, default=9090, help="0: a free port (default: %(default)s)")
    parser.add_argument("--stay", action="store_true", help="keep running after the picture, until Ctrl-C")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            demonstrate(arguments)
    except DemoFailedError as error:
        sys.exit(f"demo: FAILED: {error}")


if __name__ == "__main__":
    main()
