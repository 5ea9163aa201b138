"""The service without a garbage collector.

`python uncollected.py serve …` prints the uncollected objects on SIGUSR1.
"""

import asyncio
import gc
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from garbage import left_over  # type: ignore[import-not-found]  # run as a program, this file has its own folder on the path

from userservice_server import cli
from userservice_server.process import serving

_serve: Callable[..., Awaitable[None]] = serving.serve


def tell() -> None:
    sys.stdout.write(f"inside: {json.dumps(left_over())}\n")
    sys.stdout.flush()


async def serve(*arguments: Any) -> None:
    gc.disable()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
    await _serve(*arguments)


if __name__ == "__main__":
    serving.serve = serve
    cli.main()
