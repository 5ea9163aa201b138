"""`python -m benchmarks.views`: measures streams of all users in each view, with the Python client.

Prints users per second for a reader of user_id alone, and for a reader of all fields of the view. The rounds are
interleaved, and each figure is measured in a separate client process. See docs/performance.md.
"""

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import programs, stores
from userservice import SyncUserManager, View

_USERS = 100_000
_CHUNK = 1000
_VIEWS: tuple[View, ...] = ("FULL", "BASIC", "ID")
_BASIC = ("user_id", "id", "uuid", "email", "first_name", "last_name", "created_at", "updated_at", "etag")
_FIELDS = {"FULL": (*_BASIC, "metadata"), "BASIC": _BASIC, "ID": ("user_id", "id")}
_READERS = ("user_id", "all fields")


def _reader(view: View, reader: str) -> Callable[[Any], object]:
    if reader == "user_id":
        return lambda user: user.user_id
    fields = _FIELDS[view]
    return lambda user: [getattr(user, field) for field in fields]


def _measure(view: View, reader: str, address: str) -> None:
    """Prints the users per second of one stream, in this process."""
    read = _reader(view, reader)
    with SyncUserManager(address, timeout=60) as manager:
        manager.list(limit=1)
        count, started = 0, time.perf_counter()
        for users in manager.list_chunked(_CHUNK, view=view):
            count += len([read(user) for user in users])
        sys.stdout.write(json.dumps(count / (time.perf_counter() - started)))


def _compare(rounds: int, address: str) -> None:
    found: dict[tuple[str, str], list[float]] = {}
    kinds = [(reader, view) for reader in _READERS for view in _VIEWS]
    for _ in range(rounds):
        for reader, view in random.sample(kinds, len(kinds)):
            command = [sys.executable, "-m", "benchmarks.views", "--measure", view, reader, address]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120)
            found.setdefault((reader, view), []).append(json.loads(done.stdout))
    sys.stdout.write("reader of    view    users/s  relative to FULL  (smallest, largest)\n")
    for reader, view in kinds:
        rates = found[reader, view]
        full = statistics.median(found[reader, "FULL"])
        rate = statistics.median(rates)
        low, high = min(rates), max(rates)
        sys.stdout.write(f"{reader:12} {view:6} {rate:9.0f} {rate / full:17.2f}  ({low:.0f}, {high:.0f})\n")


def main() -> None:
    """Starts a store and a service, and compares."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.views", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds; the medians are printed")
    parser.add_argument("--users", type=int, default=_USERS, help="number of users in the store")
    parser.add_argument("--measure", nargs=3, metavar=("VIEW", "READER", "ADDRESS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        view, reader, address = arguments.measure
        _measure(view, reader, address)
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that servers are stopped, too
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as name, stores.running(Path(name)) as store:
        store.fill(arguments.users)
        with programs.service("service", store.url, Path(name)) as service:
            _compare(arguments.rounds, f"127.0.0.1:{service.port}")


if __name__ == "__main__":
    main()
