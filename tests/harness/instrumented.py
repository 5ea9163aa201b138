"""The service with diagnostics: `python instrumented.py serve …` prints a line about itself on SIGUSR1."""

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from userservice_server import cli
from userservice_server.process import serving

_serve: Callable[..., Awaitable[None]] = serving.serve


def tell() -> None:
    counts = {"tasks": len(asyncio.all_tasks()), "descriptors": len(list(Path("/proc/self/fd").iterdir()))}
    sys.stdout.write(f"inside: {json.dumps(counts)}\n")
    sys.stdout.flush()


async def serve(*arguments: Any) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
    await _serve(*arguments)


if __name__ == "__main__":
    serving.serve = serve
    cli.main()
