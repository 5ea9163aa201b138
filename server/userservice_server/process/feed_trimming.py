"""Removes old entries of the feed of changes, in the background: they contain the user_ids of deleted users."""

import asyncio
import logging

from userservice_server.errors import ServiceError
from userservice_server.store.feed import RedisFeed
from userservice_server.store.redis_store import RedisStore

_INTERVAL = 10.0  # seconds

logger = logging.getLogger("userservice.feed")


async def trim_feed(store: RedisStore) -> None:
    """Removes entries that are too old until cancelled."""
    feed, is_failing = RedisFeed(store), False
    while True:
        try:
            await feed.trim()
            is_failing = False
        except ServiceError:
            pass  # the supervision of the store logs the cause
        except Exception as error:  # noqa: BLE001 - a fault of the feed must not end the service
            if not is_failing:
                message = "cannot remove old entries of the feed of changes"
                logger.error(message, extra={"cause": type(error).__name__})  # noqa: TRY400
            is_failing = True
        await asyncio.sleep(_INTERVAL)
