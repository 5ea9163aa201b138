"""Health that follows the store: NOT_SERVING while it is away, SERVING again by itself."""

import asyncio
import logging
from collections.abc import Iterable

from userservice_server.errors import StoreUnavailableError
from userservice_server.store.redis_store import RedisStore, UnsuitableStoreError
from userservice_server.transport import health_servicer
from userservice_server.transport.descriptors import HEALTH
from userservice_server.transport.health_servicer import HealthServicer

PING_INTERVAL = 0.5  # seconds
_GREETING_INTERVAL = 1.0  # seconds between attempts to reach a store that is away
OVERALL = ""  # the name under which the protocol asks for the server as a whole

logger = logging.getLogger("userservice.health")


class Health:
    """The state behind the standard health service.

    Attributes:
        servicer: what to register with grpc.
    """

    def __init__(self, store: RedisStore, services: Iterable[str]) -> None:
        self.servicer = HealthServicer(HEALTH)
        self._store = store
        self._services = (OVERALL, *services)
        self._serving: bool | None = None

    async def follow_store(self) -> None:
        """Asks the store how it is, again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(PING_INTERVAL)

    async def look(self) -> None:
        """Asks the store how it is, once."""
        try:
            await self._ping()
        except StoreUnavailableError as error:
            await self._set(serving=False, cause=error.__cause__)
        else:
            await self._set(serving=True)

    async def _ping(self) -> None:
        if self._serving is not False:
            await self._store.ping()
            return
        # What is sent while a network swallows everything is never answered. So where new connections are, whoever has
        # waited for much longer than they took waits in vain. A store that is merely slow is given its time.
        patience = _GREETING_INTERVAL + 2 * await self._greeted()
        if self._store.waits_for > patience:
            self._store.distrust()
        try:
            async with asyncio.timeout(patience):
                await self._store.ping()
            await self._store.open()  # it may have lost its last second, or be another one
        except UnsuitableStoreError as error:
            raise StoreUnavailableError("the store cannot be used as it is") from error
        except TimeoutError as error:
            self._store.distrust()
            raise StoreUnavailableError("the store is not available") from error

    async def _greeted(self) -> float:
        """Tries new connections until one is answered; returns how many seconds that took.

        One that a network has swallowed is not waited for before the next is tried: a store that is back has to be
        found soon.
        """
        loop = asyncio.get_running_loop()

        async def attempt() -> float:
            started = loop.time()
            await self._store.greet()
            return loop.time() - started

        attempts: set[asyncio.Task[float]] = set()
        try:
            while True:
                attempts.add(asyncio.create_task(attempt()))
                done, _ = await asyncio.wait(attempts, timeout=_GREETING_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    return ended.result()
        finally:
            for task in attempts:
                task.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    async def end(self) -> None:
        """Tells everybody that asks that the server is about to end; final."""
        self.servicer.end()

    async def _set(self, *, serving: bool, cause: BaseException | None = None) -> None:
        if serving is self._serving:
            return
        self._serving = serving
        status = health_servicer.SERVING if serving else health_servicer.NOT_SERVING
        for service in self._services:
            self.servicer.set(service, status)
        # The type alone: the text of a connection's error can hold an address or a password.
        log = logger.info if serving else logger.warning
        log("the store %s", "answers" if serving else "is away", extra={"cause": type(cause).__name__} if cause else {})
