"""Identifies the store by its id, and detects that the store was emptied or replaced, or has lost keys.

A store gets a random id when it is created. The id is stored in the layout and in a key of every partition, so that
every write, range and batch can compare it. The server expects the id of the store that it opened. It expects another
id only after `StoreLayout.settle` has found a complete store with that id, or has created a new store because every
partition was empty.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from userservice_server.domain.ports import StoreIdentity
from userservice_server.errors import StoreChangedError
from userservice_server.store import scripts
from userservice_server.store.connection import Send
from userservice_server.store.failures import UnsuitableStoreError
from userservice_server.store.keys import LAYOUT_VERSION, LAYOUT_VERSIONS, MAINTAINED_LAYOUT_VERSION, Keys
from userservice_server.store.scripts import Script
from userservice_server.wire.emails import UNICODE_VERSION
from userservice_server.wire.ids import PARTITIONS, id_at

logger = logging.getLogger("userservice.store")

_ID_BYTES = 16
_FAULT_LOG_SECONDS = 60.0  # between two log lines about one fault

# Texts for the operator, by the outcomes of scripts/_settle.lua after which the store cannot be used.
FAULTS = {
    "no layout": "the store contains data but no layout",
    "no id": "the store contains data but no store id, and is not the store that this server opened",
    "other ids": "the store ids of the layout and of the partitions differ or are missing",
    "no last id": "the key last_id of a partition is missing",
    "no rows": "the key users or user_ids of a partition is missing",
    "wrong clock": "the store's clock is wrong: new ids would be above 2^53",
}
WHERE_TO_READ = "see docs/operations.md, 'An emptied or replaced store'"

Run = Callable[[Script, Sequence[bytes], Sequence[bytes | str | int]], Awaitable[Any]]
T = TypeVar("T")


class LayoutError(UnsuitableStoreError):
    """The store has another layout, or required keys are missing."""


class OtherLayoutError(LayoutError):
    """The layout has another version or number of partitions. Scripts check the store id, but not these numbers."""


@dataclass(frozen=True, slots=True)
class Identity(StoreIdentity):
    """Identifies the store that the server expects.

    Attributes:
        store_id: the store's id.
        lowest_id: all ids of the store are at least this one; 0 if unknown, as in a store of the first release.
        doubtful_until: a cursor up to this id may belong to a previous store, replaced while the server ran; else 0.
    """

    store_id: bytes
    lowest_id: int = 0
    doubtful_until: int = 0

    def check_cursor(self, cursor: int) -> None:
        """Raises StoreChangedError for a cursor that can only belong to another store."""
        # No store has ids below PARTITIONS, so such a number does not belong to another store.
        if PARTITIONS <= cursor < self.lowest_id:
            raise foreign_cursor()


UNKNOWN = Identity(b"")  # before a store is opened; no store has an empty id


def known_identity(identity: StoreIdentity) -> Identity:
    """Returns the identity behind a handle, which is the handle itself: it comes from ``RedisStore.identity``."""
    if not isinstance(identity, Identity):
        raise TypeError("the identity does not belong to this store")
    return identity


def foreign_cursor() -> StoreChangedError:
    """Returns the error for a cursor of another store."""
    return StoreChangedError("the cursor belongs to a store that was emptied or replaced; start again without a cursor")


def is_pair(existing: int) -> bool:
    """Returns whether both or none of two keys exist, given their number. Scripts always write both keys."""
    return existing in (0, 2)


class Check(NamedTuple):
    """A reply, the test that it must pass, and the error if it does not."""

    reply: "asyncio.Future[Any]"
    is_expected: Callable[[Any], bool]
    error: Callable[[], StoreChangedError]


def checked(reply: "asyncio.Future[T]", checks: Sequence[Check]) -> "asyncio.Future[T]":
    """Returns a future of a reply, which is delivered only if all checks pass.

    Args:
        reply: the reply to deliver.
        checks: at least one. The store must execute their commands after the command of ``reply``.
    """
    delivered: asyncio.Future[T] = reply.get_loop().create_future()
    replies = [reply, *(check.reply for check in checks)]

    def deliver(_done: "asyncio.Future[Any]") -> None:
        # In a cluster, a command that is sent again to another server is answered later than later commands.
        if delivered.done() or not all(map(asyncio.Future.done, replies)):
            return
        error = _failure(reply, checks)
        if error is None:
            delivered.set_result(reply.result())
        else:
            delivered.set_exception(error)
            delivered.exception()  # marks it as retrieved, in case nobody awaits it any more

    for sent in replies:
        sent.add_done_callback(deliver)
    return delivered


def _failure(reply: "asyncio.Future[Any]", checks: Sequence[Check]) -> BaseException | None:
    """Returns the exception of the first reply that failed, or of the first check that did not pass."""
    for sent in (reply, *(check.reply for check in checks)):
        if (error := sent.exception()) is not None:
            return error
    return next((check.error() for check in checks if not check.is_expected(check.reply.result())), None)


class StoreLayout:
    """Checks the layout of the store, and keeps the identity of the store that the server expects.

    Args:
        keys: the names of the store's keys.
        partitions: the number of partitions that the store must have.

    Attributes:
        identity: the store that the server expects.
        fault: why the store could not be used at the last check; empty if it could be used.
        has_feed: whether the feed of changes was on at the last check.
    """

    def __init__(self, keys: Keys, partitions: int) -> None:
        self.identity = UNKNOWN
        self.fault = ""
        self.has_feed = False
        self._has_layout = False
        self._keys = keys
        self._partitions = partitions
        self._log_again_at = 0.0

    async def settle(self, send: Send, run: Run) -> None:
        """Identifies the store; creates a new store if every partition is empty.

        Args:
            send: sends a command over the connection to check.
            run: runs a script with keys and arguments over that connection.

        Raises:
            LayoutError: the store has another layout, or required keys are missing.
            redis.exceptions.ResponseError: a key has another type.
        """
        try:
            found = await self._complete(send) or await self._settled(run)
        except LayoutError as error:
            self.note_fault(error)
            raise
        self.note_success()
        self.expect(*found)

    def note_fault(self, error: LayoutError) -> None:
        """Remembers and logs why the store cannot be used."""
        if self.identity is not UNKNOWN:  # at the start, the server exits with this text instead
            self._log_fault(str(error))

    def note_success(self) -> None:
        """Forgets the fault, because the store can be used."""
        if self.fault:
            logger.info("the store can be used again")
            self.fault = ""

    def check_numbers(self, version: bytes | None, partitions: bytes | None) -> None:
        """Raises OtherLayoutError if this service does not support one of the numbers; None: the field is absent."""
        for name, value, known in (
            ("version", version, LAYOUT_VERSIONS),
            ("partitions", partitions, (self._partitions,)),
        ):
            if value is not None and value not in [b"%d" % number for number in known]:
                wanted = " or ".join(map(str, known))
                raise OtherLayoutError(
                    f"the store has layout {name} {value.decode(errors='replace')}, this service needs {wanted}"
                )

    async def _complete(self, send: Send) -> tuple[str, Identity] | None:
        """Returns the identity of a complete store, or None. Only reads, so that a replica can serve reads."""
        reading = [send("HMGET", self._keys.layout, "version", "partitions", "store_id", "lowest_id", "feed")]
        for table in self._keys.all_users():
            reading.append(send("GET", table.store_id))
            reading.append(send("EXISTS", table.rows, table.index))
            reading.append(send("EXISTS", table.last_id))
        (*found, store_id, lowest_id, feed), *states = [await reply for reply in reading]
        self.check_numbers(*found)
        self.has_feed = feed is not None
        self._has_layout = any(value is not None for value in (*found, store_id))
        ids, pairs, last_ids = set(states[::3]), states[1::3], states[2::3]
        if None in found or store_id is None or ids != {store_id}:
            return None
        if not all(map(is_pair, pairs)) or not all(last_ids):
            return None
        return "kept", Identity(store_id, int(lowest_id or 0))

    async def _settled(self, run: Run) -> tuple[str, Identity]:
        """Runs the script that creates or upgrades a store; raises LayoutError if the store is not complete."""
        keys = [self._keys.layout]
        for table in self._keys.all_users():
            keys += [table.store_id, table.rows, table.index, table.last_id, table.session_count]
        new_id = secrets.token_hex(_ID_BYTES)
        of_new_store = (MAINTAINED_LAYOUT_VERSION, UNICODE_VERSION)
        arguments = (LAYOUT_VERSION, self._partitions, new_id, self.identity.store_id, *of_new_store)
        script = scripts.UPGRADE if self._has_layout else scripts.CREATE
        outcome, store_id, lowest_id = await run(script, keys, arguments)
        if fault := FAULTS.get(outcome.decode()):
            raise LayoutError(f"{fault}; {WHERE_TO_READ}")
        return outcome.decode(), Identity(store_id, int(lowest_id))

    def expect(self, outcome: str, found: Identity) -> None:
        """Expects the store ``found`` from now on; logs if it is a new or another store."""
        expected = self.identity
        if found.store_id == expected.store_id:
            if found.lowest_id < expected.lowest_id:  # an import restores users with older ids
                self.identity = replace(expected, lowest_id=found.lowest_id)
            return
        fields = {"layout_key": self._keys.layout.decode()}
        if expected is UNKNOWN:
            self.identity = found
            if outcome == "created":  # reveals a mistyped key prefix or database number
                logger.info("created a new, empty store", extra=fields)
            elif outcome == "upgraded":
                logger.info("added a store id to a store of the first release", extra=fields)
        elif outcome == "created":
            self.identity = found
            logger.error("the store was emptied or replaced by an empty store; created a new store", extra=fields)
        else:
            # Clients may still have cursors of the previous store; these are below the id of the present time.
            self.identity = Identity(found.store_id, found.lowest_id, id_at(time.time()))
            logger.error("the store was replaced by another store, which the server now uses", extra=fields)

    def _log_fault(self, fault: str) -> None:
        now = time.monotonic()
        if fault != self.fault or now >= self._log_again_at:
            self.fault, self._log_again_at = fault, now + _FAULT_LOG_SECONDS
            logger.error("the store was emptied, replaced or damaged; writes are rejected", extra={"fault": fault})
