"""Supervises the connections to the store: waits for the store at the start, and publishes whether it is available.

The store is available while the connections that calls use pass the probe (see ``scripts/probe.lua``). If they fail it,
new connections are made at short intervals, each of which resolves the address again, until some pass: after a failover
the name leads to another server, while the old server may keep its connections open, answer reads and reject writes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum

from userservice_server.errors import StoreUnavailableError
from userservice_server.store.failures import is_final, is_loading, why
from userservice_server.store.redis_store import RedisStore

START_SECONDS = 5.0  # limit at the start for a store that does not answer, for example because it is starting too
_START_RETRY_SECONDS = 0.1
PROBE_INTERVAL = 0.5  # seconds
_RENEW_INTERVAL = 0.5  # seconds between attempts to make new connections while the store is unavailable
_MAX_ATTEMPTS = 8  # at the same time; an attempt whose packets are dropped must not delay the next one

logger = logging.getLogger("userservice.store")


class Availability(Enum):
    """Whether the store is available to calls."""

    UP = "up"
    DOWN = "down"


@dataclass(slots=True)
class _Outage:
    since: datetime
    reasons: set[str] = field(default_factory=set)  # reasons that were logged

    def describe(self) -> dict[str, str]:
        return {"since": self.since.isoformat(timespec="milliseconds")}


async def wait_until_open(
    store: RedisStore, is_over: Callable[[], bool], loading: Callable[[], None], limit: float = START_SECONDS
) -> None:
    """Opens the store: waits ``limit`` seconds for a store that does not answer, but any time for a loading store.

    Args:
        store: the store.
        is_over: called repeatedly; True ends the wait without an error.
        loading: called repeatedly while the store loads its data.
        limit: seconds to wait for a store that does not answer.

    Raises:
        StoreUnavailableError: the store does not answer in time, or retrying is pointless (as with a wrong password).
        UnsuitableStoreError: the store cannot be used.
    """
    deadline = asyncio.get_running_loop().time() + limit
    is_logged = False
    while not is_over():
        try:
            await store.open()
        except StoreUnavailableError as error:
            is_store_loading = is_loading(error)
            if is_final(error) or (not is_store_loading and asyncio.get_running_loop().time() > deadline):
                raise
            if is_store_loading:
                loading()
                if not is_logged:
                    is_logged = True
                    logger.info("waiting for the store, which is loading its data")
            await asyncio.sleep(_START_RETRY_SECONDS)
        else:
            return


class Supervision:
    """Publishes whether the store is available, and replaces its connections while it is not.

    Args:
        store: the store, opened.
        publish: called with the first result and with every change.
    """

    def __init__(self, store: RedisStore, publish: Callable[[Availability], Awaitable[None]]) -> None:
        self._store = store
        self._publish = publish
        self._last_success: datetime | None = None
        self._published: Availability | None = None
        self._outage: _Outage | None = None

    async def run(self) -> None:
        """Supervises the store until cancelled."""
        while True:
            if await self.check():
                await asyncio.sleep(PROBE_INTERVAL)
            else:
                await self._recover()

    async def check(self) -> bool:
        """Probes the connections that calls use, and publishes the result."""
        try:
            await self._store.probe()
        except StoreUnavailableError as error:
            await self._down(error)
            return False
        await self._up()
        return True

    async def _recover(self) -> None:
        """Makes new connections until some pass the probe; then calls use these.

        An attempt can hang if the network drops its packets, so the next attempt does not wait for the previous one.
        """
        attempts: set[asyncio.Task[None]] = set()
        try:
            while True:
                if len(attempts) < _MAX_ATTEMPTS:
                    attempts.add(asyncio.create_task(self._store.renew()))
                if await self._is_any_successful(attempts):
                    await self._up()
                    return
        finally:
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    async def _is_any_successful(self, attempts: set[asyncio.Task[None]]) -> bool:
        """Waits for the attempts for one interval; removes failed attempts; returns whether one succeeded."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _RENEW_INTERVAL
        while (left := end - loop.time()) > 0:
            if not attempts:
                await asyncio.sleep(left)
                continue
            done, _ = await asyncio.wait(attempts, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            attempts -= done
            errors = [error for attempt in done if (error := attempt.exception()) is not None]
            if len(errors) < len(done):
                return True
            for error in errors:
                if not isinstance(error, StoreUnavailableError):
                    raise error  # a bug
                await self._down(error)
        return False

    async def _down(self, error: StoreUnavailableError) -> None:
        if self._outage is None:
            self._outage = _Outage(self._last_success or datetime.now(UTC))
            await self._show(Availability.DOWN)
        reason = why(error)
        if reason not in self._outage.reasons:  # once per outage: two reasons may alternate
            self._outage.reasons.add(reason)
            # Not the text of the exception, which can contain an address or a password.
            fields = {"reason": reason, "cause": type(error.__cause__).__name__, **self._outage.describe()}
            logger.warning("store unavailable", extra=fields)

    async def _up(self) -> None:
        self._last_success = now = datetime.now(UTC)
        outage, self._outage = self._outage, None
        await self._show(Availability.UP)
        if outage is not None:
            seconds = round((now - outage.since).total_seconds(), 3)
            logger.info("store available", extra={"unavailable_seconds": seconds, **outage.describe()})

    async def _show(self, availability: Availability) -> None:
        if availability is not self._published:
            self._published = availability
            if self._store.events is not None:
                self._store.events.availability_changed(is_up=availability is Availability.UP)
            await self._publish(availability)
