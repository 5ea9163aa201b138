"""`python -m benchmarks.slot_migrations`: measures the slowest call while slots of a Valkey cluster move.

A mixed load of single calls runs at a constant rate on a service with 16 partitions. In half of the loads, a third of
the slots of each master moves to a fourth master and back (CLUSTER MIGRATESLOTS); in the other half (control), nothing
moves. All loads have the same duration. The latency of a call begins at the time at which the call was due.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import programs
from benchmarks.clusters import Cluster, Node, cluster, slots_of
from benchmarks.errors import BenchError
from benchmarks.population import mappings
from benchmarks.requests import Requests
from loadgen import open_loop
from loadgen.open_loop import Latencies
from userservice import SyncUserManager
from userservice_server.store.keys import Keys
from userservice_server.store.partitions import slot_of

_MASTERS = 3
_MIGRATION_SECONDS = 60.0
_GOAL_MILLISECONDS = 50.0
_PARTITIONS = [slot_of(table.rows) for table in Keys("userservice", 16).all_users()]


class _Slots(NamedTuple):
    """A range of slots, and the master that has them at the beginning."""

    first: int
    last: int
    owner: Node


def _moved_slots(masters: list[Node]) -> list[_Slots]:
    """Returns the first third of the slots of each master."""
    ranges = []
    for number, node in enumerate(masters):
        first, last = slots_of(number, len(masters))
        ranges.append(_Slots(first, first + (last - first) // 3, node))
    return ranges


def _state(source: Node, slots: _Slots) -> str:
    """Returns the state of the newest migration of the slots."""
    jobs: list[Any] = source.client.execute_command("CLUSTER", "GETSLOTMIGRATIONS")
    text = b"%d-%d" % (slots.first, slots.last)
    states: list[str] = [job[b"state"].decode() for job in map(dict, jobs) if job[b"slot_ranges"] == text]
    return states[0]


def _move(slots: _Slots, source: Node, target: Node) -> None:
    """Moves slots, and returns when the target has them."""
    source.client.execute_command(
        "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slots.first, slots.last, "NODE", target.node_id
    )
    deadline = time.monotonic() + _MIGRATION_SECONDS
    while (state := _state(source, slots)) != "success":
        if state in ("failed", "canceled") or time.monotonic() > deadline:
            raise BenchError(f"the slots {slots.first} to {slots.last} were not moved: {state}")
        time.sleep(0.01)


def _there_and_back(running: Cluster, pause: float) -> float:
    """Moves the slots to the fourth master and back; returns the seconds that this took."""
    *masters, spare = running.nodes
    started = time.monotonic()
    for is_back in (False, True):
        for slots in _moved_slots(masters):
            time.sleep(pause)
            _move(slots, *((spare, slots.owner) if is_back else (slots.owner, spare)))
    return time.monotonic() - started


def _load(port: int, requests: Requests, arguments: argparse.Namespace) -> Latencies:
    """Runs the mixed load; returns its latencies."""
    calls, _ = requests.mixed(int(arguments.rate * arguments.seconds))
    latencies = open_loop.run(port, calls, arguments.rate)
    if latencies.errors:
        raise BenchError(f"{latencies.errors} calls failed")
    return latencies


def _rounds(
    load: Callable[[], Latencies], move: Callable[[], float], count: int
) -> tuple[list[Latencies], list[Latencies]]:
    """Returns the latencies with and without moving slots; the order changes with each round."""
    moving: list[Latencies] = []
    still: list[Latencies] = []
    with ThreadPoolExecutor(1) as thread:
        load()  # warms up
        for number in range(count):
            for is_moving in (number % 2 == 0, number % 2 == 1):
                migration = thread.submit(move) if is_moving else None
                latencies = load()
                (moving if is_moving else still).append(latencies)
                if migration:
                    sys.stdout.write(f"round {number + 1}: slots moved for {migration.result():.1f} s\n")
    return moving, still


def _report(moving: list[Latencies], still: list[Latencies]) -> bool:
    """Prints the figures; returns whether the goal is reached."""
    medians = {}
    for name, found in (("while slots move", moving), ("without", still)):
        slowest = sorted(1e3 * each.seconds[-1] for each in found)
        medians[name] = statistics.median(slowest)
        p99 = statistics.median(1e3 * each.percentile(99) for each in found)
        sys.stdout.write(
            f"{name}: slowest call {medians[name]:.1f} ms ({slowest[0]:.1f} to {slowest[-1]:.1f}), p99 {p99:.1f} ms\n"
        )
    longer = medians["while slots move"] - medians["without"]
    is_reached = longer <= _GOAL_MILLISECONDS
    sys.stdout.write(
        f"difference of the slowest calls: {longer:.1f} ms, "
        f"wanted <= {_GOAL_MILLISECONDS:g}{'' if is_reached else ', MISSED'}\n"
    )
    return is_reached


def main() -> int:
    """Returns the exit code: 0 if the goal is reached, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slot_migrations", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rate", type=float, default=300.0, help="calls per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of a load")
    parser.add_argument("--users", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as made:
        folder = Path(made)
        with cluster(folder, _MASTERS, spares=1) as running, programs.service("", running.url, folder) as service:
            with SyncUserManager(f"127.0.0.1:{service.port}", timeout=60) as manager:
                manager.import_users(mappings(arguments.users))
            moved = sum(s.first <= slot <= s.last for s in _moved_slots(running.nodes[:-1]) for slot in _PARTITIONS)
            sys.stdout.write(f"{moved} of {len(_PARTITIONS)} partitions move there and back\n")
            load = partial(_load, service.port, Requests(arguments.users), arguments)
            found = _rounds(load, partial(_there_and_back, running, arguments.seconds / 16), arguments.rounds)
    return 0 if _report(*found) else 1


if __name__ == "__main__":
    sys.exit(main())
