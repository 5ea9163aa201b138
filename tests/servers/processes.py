"""Calls from child processes of every start method: `processes.py ADDRESS METHOD`."""

import multiprocessing
import os
import sys

from userservice import SyncUserManager


def call(address: str) -> tuple[int, str]:
    with SyncUserManager(address, timeout=5) as users:
        return os.getpid(), users.get("ada").user_id


def main(address: str, method: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        answers = pool.map(call, [address] * 4, chunksize=1)
    assert os.getpid() not in {pid for pid, _ in answers}
    sys.stdout.write(" ".join(user_id for _, user_id in answers) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
