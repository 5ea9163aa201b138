"""Removes expired sessions in the background."""

import asyncio
import logging
import time

from userservice_server.errors import ServiceError
from userservice_server.store.redis_store import RedisStore

_IDLE_SECONDS = 1.0  # pause between two steps if nothing has expired
_REST = 3  # pause between two steps, in durations of a step, so that other calls get most of the store's time

logger = logging.getLogger("userservice.sessions")


async def sweep_sessions(store: RedisStore) -> None:
    """Removes expired sessions until it is cancelled."""
    is_failing = False
    while True:
        started, removed = time.monotonic(), 0
        try:
            removed = await store.sweep()
            is_failing = False
        except ServiceError:
            pass  # the supervision of the store logs why it is unavailable
        except Exception as error:  # noqa: BLE001 - a fault of the sweeper must not end the service
            if not is_failing:
                logger.error("expired sessions cannot be removed", extra={"cause": type(error).__name__})  # noqa: TRY400
            is_failing = True
        await asyncio.sleep(_REST * (time.monotonic() - started) if removed else _IDLE_SECONDS)
