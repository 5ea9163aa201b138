"""Removes expired sessions in the background."""

import asyncio
import logging
import time

from userservice_server.errors import ServiceError
from userservice_server.store.redis_store import RedisStore

_IDLE_SECONDS = 1.0  # pause if nothing has expired; no pause is longer
# Pauses between two steps, in durations of a step. While the store executes a step and flushes it to its disk, other
# calls wait. The sweeper only frees memory, so it usually takes so little of the time that the p99 of other calls stays
# almost as it is. If expired sessions remain for an hour, for example because many sessions expire, it hurries.
_REST, _HURRIED_REST = 99, 3
_HURRY_AFTER = 3600.0  # seconds

logger = logging.getLogger("userservice.sessions")


async def sweep_sessions(store: RedisStore) -> None:
    """Removes expired sessions until it is cancelled."""
    is_failing = False
    done_at = time.monotonic()  # when no expired session was left
    while True:
        started, examined = time.monotonic(), 0
        try:
            examined = await store.sweep()
            is_failing = False
            if not examined:
                done_at = started
        except ServiceError:
            pass  # the supervision of the store logs why it is unavailable
        except Exception as error:  # noqa: BLE001 - a fault of the sweeper must not end the service
            if not is_failing:
                logger.error("expired sessions cannot be removed", extra={"cause": type(error).__name__})  # noqa: TRY400
            is_failing = True
        now = time.monotonic()
        rest = _REST if now < done_at + _HURRY_AFTER else _HURRIED_REST
        await asyncio.sleep(min(rest * (now - started), _IDLE_SECONDS) if examined else _IDLE_SECONDS)
