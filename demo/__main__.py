"""Starts the service with an empty store, loads generated users, streams them back, and checks every user."""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from demo import population
from demo.loading import load
from demo.running import DemoFailedError, running_service
from userservice import User, UserManager

_FIELDS = ("user_id", "email", "first_name", "last_name", "metadata")


async def stream(address: str) -> list[User]:
    """Reads all users with a stream."""
    users: list[User] = []
    with progress("stream") as bar:
        async with UserManager(address) as user_manager:
            async for chunk in user_manager.list_chunked(chunk_size=1000):
                bar.total = chunk.total_size
                bar.update(len(chunk))
                users += chunk
    return users


def check(users: list[User], count: int, seed: int) -> None:
    """Raises unless every user was received exactly once, in the order of the ids, with its loaded content."""
    if any(user.id >= following.id for user, following in itertools.pairwise(users)):
        raise DemoFailedError("the users were not received in the order of their ids")
    found = {user.user_id: user for user in users}
    if not len(users) == len(found) == count:
        raise DemoFailedError(f"loaded {count} users, but received {len(users)}, of them {len(found)} different ones")
    with progress("check", count) as bar:
        for number in range(count):
            check_one(population.user(number, seed), found)
            bar.update()


def check_one(fields: dict[str, Any], found: dict[str, User]) -> None:
    """Raises unless the user with these fields was found with equal content."""
    made = {"email": "", "first_name": "", "last_name": "", "metadata": {}} | fields
    user = found.get(made["user_id"])
    if user is None:
        raise DemoFailedError(f"{made['user_id']!r} was not received")
    received = {field: getattr(user, field) for field in _FIELDS}
    if received != made:
        raise DemoFailedError(f"loaded {made}\nbut received {received}")


def progress(what: str, count: int | None = None) -> "tqdm[Any]":
    """Returns a progress bar on standard error."""
    return tqdm(total=count, desc=f"{what:>6}", unit=" users", mininterval=0.5, file=sys.stderr)


def demonstrate(count: int, seed: int, processes: int) -> None:
    """Runs the demo and prints its figures."""
    with tempfile.TemporaryDirectory(prefix="userservice-demo-") as room, running_service(Path(room)) as address:
        started = time.perf_counter()
        with progress("load", count) as bar:
            for added in load(address, count, seed, processes):
                bar.update(added)
        loaded = time.perf_counter()
        users = asyncio.run(stream(address))
        streamed = time.perf_counter()
        check(users, count, seed)
    size = sum(len(bytes(user)) for user in users) / 1e6
    print(f"loaded    {count:,} users with AddUser from {processes} processes: {rate(count, loaded - started)}")
    print(f"streamed  {count:,} users, {size:,.1f} MB, with ListUsersChunked: {rate(count, streamed - loaded)}")
    print(f"checked   {count:,} of {count:,} users received exactly once, in order, with equal content")


def rate(count: int, seconds: float) -> str:
    """Returns a duration and a rate as text."""
    return f"{seconds:.1f} s, {count / seconds:,.0f} users/s"


def main() -> None:
    """Reads the command line and runs the demo."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--users", type=int, default=100_000, help="number of users (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated users (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="number of loading processes (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.users < 1 or arguments.processes < 1:
        parser.error("--users and --processes must be at least 1")
    try:
        demonstrate(arguments.users, arguments.seed, arguments.processes)
    except DemoFailedError as error:
        sys.exit(f"demo: FAILED: {error}")


if __name__ == "__main__":
    main()
