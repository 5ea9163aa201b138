"""The service with code that does not end: `python stuck.py serve …` with WHERE in the environment."""

import asyncio
import os
import threading
import time
from typing import Any

from userservice_server import cli
from userservice_server.process import serving

SECONDS = 300
_serve_store: Any = serving._serve_store
_end: Any = serving.Health.end


async def serve_store(*arguments: Any) -> None:
    if os.environ["WHERE"] == "executor":  # where getaddrinfo waits for a name server
        asyncio.get_running_loop().run_in_executor(None, time.sleep, SECONDS)
    if os.environ["WHERE"] == "thread":
        threading.Thread(target=time.sleep, args=(SECONDS,)).start()
    await _serve_store(*arguments)


async def end(health: Any) -> None:
    if os.environ["WHERE"] == "event loop":
        time.sleep(SECONDS)  # noqa: ASYNC251 - on purpose
    if os.environ["WHERE"] == "awaited":
        await asyncio.sleep(SECONDS)
    await _end(health)


serving._serve_store = serve_store
serving.Health.end = end

if __name__ == "__main__":
    cli.main()
