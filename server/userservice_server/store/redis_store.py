"""Stores records in Redis or Valkey: adds, reads, replaces and deletes encoded records by their key."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from operator import eq
from typing import Any, TypeVar

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, NoPermissionError, NoScriptError, RedisError, ResponseError

from userservice_server.domain import ports
from userservice_server.domain.ports import MOST_STORES, IdempotencyKey, StoreIdentity
from userservice_server.errors import StoreChangedError, StoreFullError, StoreUnavailableError
from userservice_server.store import scripts
from userservice_server.store.connection import Send, SharedConnection
from userservice_server.store.events import StoreEvents
from userservice_server.store.failures import UnsuitableStoreError, unavailable
from userservice_server.store.identity import (
    UNKNOWN,
    Check,
    Identity,
    LayoutError,
    StoreLayout,
    checked,
    foreign_cursor,
    is_pair,
)
from userservice_server.store.keys import Keys, Table
from userservice_server.store.scripts import Script
from userservice_server.store.sizes import Sizes, count_sessions, read_sizes
from userservice_server.wire.outcomes import Code, Outcome

logger = logging.getLogger("userservice.store")

PARTITIONS = 1  # a single Redis needs only one; a cluster would need more
_CLOCK_LOG_SECONDS = 60.0  # between two log lines about the store's clock

T = TypeVar("T")


class StoreClockError(Exception):
    """The next id would be above 2^53, because of the store's clock or its last id. Appears only in the log."""


class RedisStore:
    """Tables of records in Redis.

    Methods raise StoreUnavailableError if Redis is unavailable, slow, loading or read-only, StoreFullError if Redis has
    no memory left, and StoreChangedError if the store was replaced or has lost keys.

    Attributes:
        tables: the tables of records.
        events: observes the store; None: nothing is measured.
    """

    def __init__(self, url: str, *, key_prefix: str, timeout: float, events: StoreEvents | None = None) -> None:
        """Prepares the connections, which connect at the first call.

        Args:
            url: URL of Redis, in a form that redis-py accepts (redis://, rediss://, unix://).
            key_prefix: prefix of all keys.
            timeout: limit in seconds for connecting and for each reply.
            events: observes the store.

        Raises:
            ValueError: the URL is invalid. The error text may contain the URL.
        """
        pool = ConnectionPool.from_url(
            url,
            protocol=2,  # with RESP3, the server may push messages that are not replies
            retry=Retry(NoBackoff(), 0),  # a retried write could be applied twice; callers retry by request_id
            health_check_interval=0,
            socket_timeout=None,  # SharedConnection enforces the timeout
            decode_responses=False,
        )
        try:
            pool.make_connection()  # type: ignore[no-untyped-call]  # does not connect; only checks the options of the URL
        except (TypeError, RedisError) as error:
            raise ValueError("the URL has an unknown option") from error
        self.tables = self._keys = Keys(key_prefix, PARTITIONS)
        self.events = events
        # Long replies (pages, chunks, batches) use a separate connection, so that short replies need not wait.
        self._make_connection: Callable[[], AbstractConnection] = pool.make_connection
        self._timeout = timeout
        self._retired: set[asyncio.Task[None]] = set()  # of connections that still have replies to deliver
        self._calls, self._bulk = self._pair()
        self._layout = StoreLayout(self._keys, PARTITIONS)
        self._looking: asyncio.Task[None] | None = None
        self._clock_logged_at = -math.inf

    def _pair(self) -> tuple[SharedConnection, SharedConnection]:
        """Returns two unconnected connections: one for calls and one for bulk reads."""
        return (
            SharedConnection(self._make_connection, self._check, self._timeout, events=self.events),
            SharedConnection(
                self._make_connection, self._check, self._timeout, quiet_turns=0, long_replies=True, events=self.events
            ),
        )

    async def open(self) -> None:
        """Connects; returns if Redis has passed the checks (see ``_check``).

        Raises:
            UnsuitableStoreError: Redis is too old, is part of a cluster, may evict users or contains another layout, or
                required keys are missing.
            StoreUnavailableError: Redis cannot be reached, or is loading.
        """
        for connection in (self._calls, self._bulk):  # in turn, so that a wrong password is tried only once
            try:
                await connection.send("ECHO", "")
            except StoreUnavailableError as error:
                if isinstance(error.__cause__, UnsuitableStoreError):
                    raise error.__cause__ from error.__cause__.__cause__
                raise

    async def _check(self, send: Send) -> None:
        """Checks over a new connection whether Redis is suitable, and identifies its store.

        Creates a new store in an empty Redis. Raises the errors of ``open``, except if the store loses keys while the
        server is running: reads then continue where possible, and writes are rejected (see ``_write``).
        """
        try:
            await self._load_scripts(send)
            await self._check_permissions(send)
            await self._check_eviction(send)
            await self._settle(send)
        except StoreUnavailableError as error:
            if isinstance(error.__cause__, NoPermissionError):
                text = "the Redis user lacks permissions; docs/operations.md lists them"
                raise UnsuitableStoreError(text) from error.__cause__
            if isinstance(error.__cause__, MovedError):
                raise UnsuitableStoreError("a Redis Cluster is not supported") from error.__cause__
            raise
        except LayoutError:
            if self.identity is UNKNOWN:
                raise
        except StoreFullError as error:
            raise UnsuitableStoreError("the store has no memory left, so its layout cannot be created") from error
        except ResponseError as error:
            raise UnsuitableStoreError("other data uses the key prefix: a key has an unexpected type") from error

    async def _settle(self, send: Send) -> None:
        await self._layout.settle(send, partial(_run, send))

    async def _look(self) -> None:
        """Identifies the store (see `StoreLayout.settle`); concurrent calls share one check."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._settle(self._calls.send))
            self._looking.add_done_callback(self._looked)
        await asyncio.shield(self._looking)

    def _looked(self, task: "asyncio.Task[None]") -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # marks it as retrieved, in case all waiting calls were cancelled

    @property
    def identity(self) -> Identity:
        """The store that the server expects. A read of several commands uses one identity from start to end."""
        return self._layout.identity

    async def look_again(self, expected: StoreIdentity) -> None:
        """Identifies the store again, after a call that expected the store ``expected`` found another store.

        Raises:
            StoreChangedError: required keys of the store are missing.
        """
        if self.identity is not expected and not self._layout.fault:
            return  # another call has identified the store already
        try:
            await self._look()
        except (LayoutError, StoreFullError, ResponseError) as error:
            raise StoreChangedError("the store was emptied, replaced or damaged; an operator must act") from error

    async def reread(self, read: Callable[[], Awaitable[T]]) -> T:
        """Runs a read that depends on no earlier read; repeats it if the store changes during the read.

        Raises:
            StoreChangedError: required keys of the store are missing, or the store changes repeatedly.
        """
        for _ in range(MOST_STORES):
            identity = self.identity
            try:
                return await read()
            except StoreChangedError:
                await self.look_again(identity)
        raise StoreChangedError.during_read()

    async def _load_scripts(self, send: Send) -> None:
        try:
            for loading in [send("SCRIPT", "LOAD", script.text) for script in scripts.ALL]:
                await loading
        except ResponseError as error:
            text = "the store rejects the Lua scripts; Redis 7.0 or Valkey 8, or later, is required"
            raise UnsuitableStoreError(text) from error

    async def _check_permissions(self, send: Send) -> None:
        if missing := await _run(send, scripts.PERMISSIONS, (self._keys.layout,), ()):
            text = f"the Redis user lacks permissions, such as {missing.decode()}; docs/operations.md lists them"
            raise UnsuitableStoreError(text)

    async def _check_eviction(self, send: Send) -> None:
        try:
            lines = (await send("INFO", "memory")).decode().splitlines()
        except StoreUnavailableError as error:
            if isinstance(error.__cause__, NoPermissionError):
                return  # the service itself does not need this permission
            raise
        info = dict(line.split(":", 1) for line in lines if ":" in line)
        policy = info.get("maxmemory_policy", "")
        if policy.startswith("allkeys") and info.get("maxmemory") != "0":
            raise UnsuitableStoreError(f"the store may evict users: its maxmemory-policy is {policy}, not noeviction")

    async def close(self) -> None:
        """Closes the connections."""
        for task in self._retired:
            task.cancel()
        await asyncio.gather(self._calls.close(), self._bulk.close(), *self._retired, return_exceptions=True)

    async def probe(self) -> None:
        """Checks that Redis executes writes on both connections and contains the expected store; writes nothing.

        Raises:
            StoreUnavailableError: a check failed.
        """
        await self._probe(self._calls, self._bulk)
        try:
            await self._check_permissions(self._calls.send)
        except UnsuitableStoreError as error:
            self.distrust()  # new connections fail the same check, so no script stops half-way
            raise unavailable(error) from error
        try:
            await self._look()
        except (LayoutError, StoreFullError, ResponseError) as error:
            raise unavailable(error) from error

    async def renew(self) -> None:
        """Makes new connections, which resolves the address again, and uses them from now on if they pass the probe.

        Until then, and if they do not pass, the present connections stay in use: they may still serve reads.

        Raises:
            StoreUnavailableError: the new connections failed the probe, or their store cannot be used.
        """
        fresh = self._pair()
        try:
            await self._probe(*fresh)
        except BaseException:
            await asyncio.gather(*(connection.close() for connection in fresh))
            raise
        old, (self._calls, self._bulk) = (self._calls, self._bulk), fresh
        for connection in old:
            if self.events is not None:
                self.events.reconnected()
            if task := connection.retire():
                self._retired.add(task)
                task.add_done_callback(self._retired.discard)
        if self._layout.fault:
            raise unavailable(LayoutError(self._layout.fault))

    async def _probe(self, *connections: SharedConnection) -> None:
        # One after the other: while Redis delays writes (CLIENT PAUSE WRITE, as in a planned failover), the probe waits
        # on the first connection, and reads on the second connection continue.
        for connection in connections:
            try:
                answer = await _run(connection.send, scripts.PROBE, (self._keys.layout,), ())
            except RedisError as error:
                raise unavailable(error) from error
            if answer not in (0, 1):  # the reply belongs to another command
                connection.reset()
                raise unavailable(None)

    def distrust(self) -> None:
        """Closes the connections, after a reply that cannot be right. The next command makes new ones."""
        self._calls.reset()
        self._bulk.reset()

    async def sizes(self) -> Sizes:
        """Returns the numbers of users and sessions."""
        return await read_sizes(self._bulk.send, self._keys.all_users())

    async def count_more_sessions(self) -> bool:
        """Counts the sessions of the next users of a store without a session count; returns whether users remain."""
        send = self._bulk.send
        return await count_sessions(send, partial(_run, send), self._keys, self.identity.store_id)

    async def add(
        self,
        table: ports.Table,
        key: str,
        head: bytes,
        tail: bytes,
        idempotency_key: IdempotencyKey,
        *,
        is_update: bool = False,
    ) -> Outcome:
        """Adds a record made of ``head``, the id that the store assigns, and ``tail``."""
        own = _own(table)
        redis_keys = (own.rows, own.index, own.last_id, _request_key(own, idempotency_key), *_owner_keys(own))
        arguments = (key, head, tail, idempotency_key.fingerprint, own.partition, own.owner, int(is_update))
        outcome = await self._write(scripts.ADD, own, redis_keys, arguments)
        if outcome.code is Code.WRONG_CLOCK:
            raise self._wrong_clock()
        return outcome

    def _wrong_clock(self) -> StoreUnavailableError:
        now = time.monotonic()
        if now >= self._clock_logged_at + _CLOCK_LOG_SECONDS:
            self._clock_logged_at = now
            logger.error(
                "the store's clock is or was wrong: the next id would be above 2^53, so nothing can be added; "
                "see docs/operations.md, 'The store's clock'"
            )
        error = StoreUnavailableError("the store's clock is wrong, nothing was added; an operator must act")
        error.__cause__ = StoreClockError()
        return error

    async def get(self, table: ports.Table, key: str) -> Outcome:
        """Reads a record."""
        own = _own(table)
        outcome = await self._outcome(scripts.GET, (own.rows, own.index, *_owner_key(own)), (key, own.owner))
        if outcome.code is Code.STORE_CHANGED:
            raise StoreChangedError("the store has lost data; an operator must act")
        return outcome

    async def get_many(self, table: ports.Table, keys: Sequence[str], identity: StoreIdentity) -> "list[bytes | None]":
        """Returns the records of the keys; None for a key without a record."""
        own = _own(table)
        redis_keys = (own.store_id, own.rows, own.index)
        events = self.events
        started = time.perf_counter() if events is not None else 0.0
        arguments: tuple[bytes | str, ...] = (_known(identity).store_id, *keys)
        try:
            records: bytes | list[bytes | None] = await _run(self._bulk.send, scripts.BATCH_GET, redis_keys, arguments)
        except BaseException as error:
            if events is not None:
                events.failed(scripts.BATCH_GET.name, time.perf_counter() - started, error)
            raise
        if events is not None:
            events.replied(scripts.BATCH_GET.name, time.perf_counter() - started)
        if isinstance(records, bytes):
            raise StoreChangedError.during_read()
        return records

    async def replace(
        self, table: ports.Table, key: str, old: bytes, verdict: Outcome, idempotency_key: IdempotencyKey
    ) -> Outcome:
        """Applies ``verdict`` if ``old`` is still the record; returns CONFLICT with the present record if not."""
        own = _own(table)
        redis_keys = (own.rows, own.index, _request_key(own, idempotency_key), *_owner_key(own))
        arguments = (key, old, verdict.encode(), idempotency_key.fingerprint, own.owner)
        return await self._write(scripts.REPLACE, own, redis_keys, arguments)

    async def delete(
        self,
        table: ports.Table,
        key: str,
        old: bytes,
        verdict: Outcome,
        idempotency_key: IdempotencyKey,
        owned: "ports.Table | None" = None,
    ) -> Outcome:
        """Removes a record, and the table ``owned`` by it, if ``old`` is empty or still the record."""
        own = _own(table)
        more_keys = (_own(owned).rows, _own(owned).index, own.session_count) if owned else _owner_keys(own)
        redis_keys = (own.rows, own.index, _request_key(own, idempotency_key), *more_keys)
        arguments = (key, old, verdict.encode(), idempotency_key.fingerprint, own.owner)
        return await self._write(scripts.DELETE, own, redis_keys, arguments)

    def range(
        self,
        table: ports.Table,
        after: int,
        count: int,
        identity: StoreIdentity,
        *,
        is_resumed: bool = False,
        descending: bool = False,
    ) -> "asyncio.Future[list[bytes]]":
        """Starts to read up to ``count`` records with ids above ``after``, in the order of their ids.

        Args:
            table: the table to read.
            after: the read starts after this id.
            count: maximum number of records.
            identity: the store that these records, and all replies to earlier commands, must come from.
            is_resumed: whether ``after`` is a cursor that a caller sent, perhaps of another store.
            descending: whether to read ids below ``after`` instead, the largest first; 0 starts at the newest record.
        """
        own, expected = _own(table), _known(identity)
        if is_resumed:
            expected.check_cursor(after)
        send = self._bulk.send
        if descending:
            start = f"({after}" if after else "+inf"
            reply = send("ZRANGE", own.rows, start, "-inf", "BYSCORE", "REV", "LIMIT", 0, count)
        else:
            reply = send("ZRANGE", own.rows, f"({after}", "+inf", "BYSCORE", "LIMIT", 0, count)
        checks = [
            Check(send("GET", own.store_id), partial(eq, expected.store_id), StoreChangedError.during_read),
            # Scripts always write both keys. If the rows were lost, a store with users would look empty.
            Check(send("EXISTS", own.rows, own.index), is_pair, StoreChangedError.during_read),
        ]
        if is_resumed and after <= expected.doubtful_until:
            checks.append(Check(send("ZRANGE", own.rows, after, after, "BYSCORE"), bool, foreign_cursor))
        records = checked(reply, checks)
        if self.events is not None:
            records.add_done_callback(partial(_report_range, self.events, time.perf_counter()))
        return records

    def newest(self, table: ports.Table) -> "asyncio.Future[list[bytes]]":
        """Starts to read the newest record: a list of one record, or an empty list."""
        return self._bulk.send("ZRANGE", _own(table).rows, -1, -1)

    def oldest(self, table: ports.Table) -> "asyncio.Future[list[bytes]]":
        """Starts to read the oldest record: a list of one record, or an empty list."""
        return self._bulk.send("ZRANGE", _own(table).rows, 0, 0)

    def size(self, table: ports.Table) -> "asyncio.Future[int]":
        """Starts to count the records."""
        return self._bulk.send("ZCARD", _own(table).rows)

    def has_owner(self, table: ports.Table) -> "asyncio.Future[int]":
        """Starts to check whether the owner of the table exists: 1 or 0."""
        own = _own(table)
        return self._bulk.send("HEXISTS", own.owner_index, own.owner)

    async def write(
        self, script: Script, table: Table, redis_keys: Sequence[bytes], arguments: Sequence[bytes | str | int]
    ) -> Any:
        """Does the same as ``_write``, for a script whose reply is not an outcome; returns the reply."""
        for _ in range(MOST_STORES):
            identity = self.identity
            if not self._layout.fault:
                every_key = (table.store_id, table.layout, *redis_keys)
                reply = await self._observed(self._calls.send, script, every_key, (identity.store_id, *arguments))
                if reply == Code.WRONG_CLOCK.value:
                    raise self._wrong_clock()
                if reply != Code.STORE_CHANGED.value:
                    return reply
            await self.look_again(identity)
        raise StoreChangedError("the store was emptied, replaced or damaged; nothing was changed")

    async def allow_older_ids(self) -> None:
        """Removes the lower limit of the ids of the store, because an import restores users with older ids."""
        await self._calls.send("HSET", self._keys.layout, "lowest_id", 0)
        await self._look()

    async def read(
        self, script: Script, table: Table, redis_keys: Sequence[bytes], arguments: Sequence[bytes | str | int]
    ) -> Any:
        """Runs a script that only reads a partition, and that compares the store id; returns its reply."""
        for _ in range(MOST_STORES):
            identity = self.identity
            every_key = (table.store_id, *redis_keys)
            reply = await self._observed(self._bulk.send, script, every_key, (identity.store_id, *arguments))
            if reply != Code.STORE_CHANGED.value:
                return reply
            await self.look_again(identity)
        raise StoreChangedError.during_read()

    async def _observed(
        self, send: Send, script: Script, redis_keys: Sequence[bytes], arguments: Sequence[bytes | str | int]
    ) -> Any:
        """Runs a script and reports its duration; returns its reply."""
        started = time.perf_counter()
        reply = await self._failing(send, script, redis_keys, arguments, started)
        if self.events is not None:
            self.events.replied(script.name, time.perf_counter() - started)
        return reply

    async def _failing(
        self,
        send: Send,
        script: Script,
        redis_keys: Sequence[bytes],
        arguments: Sequence[bytes | str | int],
        started: float,
    ) -> Any:
        """Runs a script; reports it if it fails."""
        events = self.events
        try:
            return await _run(send, script, redis_keys, arguments)
        except BaseException as error:
            if events is not None:
                events.failed(script.name, time.perf_counter() - started, error)
            raise

    async def _write(
        self, script: Script, table: Table, redis_keys: Sequence[bytes], arguments: Sequence[bytes | str | int]
    ) -> Outcome:
        """Runs a script that writes, but only in the store that the server expects.

        In another store, the script writes nothing. It runs again if the server expects that store afterwards.
        """
        for _ in range(MOST_STORES):
            identity = self.identity
            if not self._layout.fault:
                every_key = (table.store_id, table.layout, *redis_keys)
                outcome = await self._outcome(script, every_key, (identity.store_id, *arguments))
                if outcome.code is not Code.STORE_CHANGED:
                    return outcome
            await self.look_again(identity)
        raise StoreChangedError("the store was emptied, replaced or damaged; nothing was changed")

    async def _outcome(
        self, script: Script, redis_keys: Sequence[bytes], arguments: Sequence[bytes | str | int]
    ) -> Outcome:
        events = self.events
        started = time.perf_counter() if events is not None else 0.0
        reply = await self._failing(self._calls.send, script, redis_keys, arguments, started)
        is_replay = isinstance(reply, list)
        try:
            if is_replay:  # see recorded_outcome in scripts/_outcome.lua
                (reply,) = reply
            outcome = Outcome.parse(reply)
        except ValueError:
            self.distrust()
            raise
        if events is not None:
            events.replied(script.name, time.perf_counter() - started)
            if is_replay:
                events.replayed()
            elif outcome.code is Code.CONFLICT:
                events.conflicted()
        return outcome


async def _run(send: Send, script: Script, redis_keys: Sequence[bytes], arguments: Sequence[bytes | str | int]) -> Any:
    """Runs a script over the connection of ``send``; returns its reply."""
    try:
        return await send("EVALSHA", script.sha1, len(redis_keys), *redis_keys, *arguments)
    except NoScriptError:  # Redis lost its scripts (restart, failover, flush); EVAL loads the script again
        return await send("EVAL", script.text, len(redis_keys), *redis_keys, *arguments)


def _report_range(events: StoreEvents, started: float, records: "asyncio.Future[list[bytes]]") -> None:
    """Reports the read of a range, unless its list has ended before the reply."""
    if records.cancelled():
        return
    seconds, error = time.perf_counter() - started, records.exception()
    if error is None:
        events.replied("range", seconds)
    else:
        events.failed("range", seconds, error)


def _own(table: ports.Table) -> Table:
    """Returns the table behind a handle, which is the handle itself: tables come from ``RedisStore.tables``."""
    if not isinstance(table, Table):
        raise TypeError("the table does not belong to this store")
    return table


def _known(identity: StoreIdentity) -> Identity:
    """Returns the identity behind a handle, which is the handle itself: it comes from ``RedisStore.identity``."""
    if not isinstance(identity, Identity):
        raise TypeError("the identity does not belong to this store")
    return identity


def _request_key(table: Table, idempotency_key: IdempotencyKey) -> bytes:
    return table.request_prefix + idempotency_key.request_id.encode()


def _owner_key(table: Table) -> tuple[bytes, ...]:
    return (table.owner_index,) if table.owner else ()


def _owner_keys(table: Table) -> tuple[bytes, ...]:
    """Returns the keys that a change of the number of sessions needs; none for a table of users."""
    return (table.owner_index, table.session_count) if table.owner else ()
