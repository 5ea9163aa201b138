"""Removes expired sessions in the background."""

import asyncio
import logging
import time

from userservice_server.errors import ServiceError
from userservice_server.store.redis_store import RedisStore

_IDLE_SECONDS = 1.0  # pause if nothing has expired; no pause is longer
# Pauses between two steps, in durations of a step. While the store executes a step and flushes it to its disk, other
# calls wait. Removing expired sessions is not urgent, so the long pauses keep the p99 of other calls below twice its
# value without the sweeper. The short pauses apply while a session has been expired for an hour.
_REST, _HURRIED_REST = 99, 3
_HURRY_AFTER = 3600.0  # seconds

logger = logging.getLogger("userservice.sessions")


class Sweeper:
    """Removes expired sessions.

    Args:
        store: the store of the sessions.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._is_failing = False

    async def run(self) -> None:
        """Removes expired sessions until it is cancelled."""
        while True:
            has_worked = False
            for partition in await self._sweepable():
                if (pause := await self._step(partition)) > 0:
                    has_worked = True
                    await asyncio.sleep(pause)
            if not has_worked:
                await asyncio.sleep(_IDLE_SECONDS)

    async def _sweepable(self) -> list[int]:
        try:
            return await self._store.sweepable()
        except ServiceError:
            return []
        except Exception as error:  # noqa: BLE001 - as in _step
            self._report(error)
            return []

    async def _step(self, partition: int) -> float:
        """Does a step in a partition; returns the pause that must follow, or 0 if nothing has expired."""
        started = time.monotonic()
        try:
            step = await self._store.sweep(partition)
            self._is_failing = False
        except ServiceError:
            return 0  # the supervision of the store logs why it is unavailable
        except Exception as error:  # noqa: BLE001 - a fault of the sweeper must not end the service
            self._report(error)
            return 0
        if not step.users:
            return 0
        rest = _HURRIED_REST if step.overdue > _HURRY_AFTER else _REST
        return min(rest * (time.monotonic() - started), _IDLE_SECONDS)

    def _report(self, error: Exception) -> None:
        if not self._is_failing:
            logger.error("expired sessions cannot be removed", extra={"cause": type(error).__name__})
        self._is_failing = True
