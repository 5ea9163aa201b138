"""Measures the TypeScript client, which requires Node and a built client (`npm run build`)."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchError

_CLIENT = Path(__file__).parent.parent / "client" / "typescript"
_CHUNK_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of reading all users.

    Attributes:
        users_per_second: rate of reading the user_id of each user.
        grown_mib: maximum growth of the heap and the external buffers in MiB, after a garbage collection.
    """

    users_per_second: float
    grown_mib: float


def is_there() -> bool:
    """Returns whether the TypeScript client can be measured."""
    return shutil.which("node") is not None and (_CLIENT / "dist" / "index.js").exists()


def read(port: int, users: int) -> Reading:
    """Reads all ``users`` users of the service on a port; returns the figures."""
    command = ["node", "--expose-gc", "bench/list_chunked.js", f"127.0.0.1:{port}", str(_CHUNK_SIZE), "1"]
    done = subprocess.run(command, cwd=_CLIENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the TypeScript client failed: {done.stderr.strip().splitlines()[-1]}")
    figures = json.loads(done.stdout)
    if figures["users"] != users:
        raise BenchError(f"the TypeScript client read {figures['users']} of {users} users")
    return Reading(figures["users_per_s"], figures["grown_mib"])
