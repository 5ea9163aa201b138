"""Stores records in Redis or Valkey: adds, reads, replaces and deletes encoded records by their key."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import eq
from typing import Any, TypeVar

from redis.exceptions import ClusterCrossSlotError, ResponseError

from userservice_server.domain import ports
from userservice_server.domain.ports import MOST_STORES, Ends, FindQuery, FoundUsers, IdempotencyKey, StoreIdentity
from userservice_server.errors import IndexNotReadyError, StoreChangedError, StoreFullError, StoreUnavailableError
from userservice_server.store import scripts
from userservice_server.store.clock_fence import raise_last_ids
from userservice_server.store.cluster_links import ClusterNodes
from userservice_server.store.connection import Send, UnfitForWritesError
from userservice_server.store.events import StoreEvents
from userservice_server.store.failures import UnsuitableStoreError, unavailable
from userservice_server.store.identity import (
    UNKNOWN,
    Check,
    Identity,
    LayoutError,
    OtherLayoutError,
    StoreLayout,
    checked,
    foreign_cursor,
    is_pair,
    known_identity,
)
from userservice_server.store.keys import (
    COMPLETE,
    FILLING,
    LAYOUT_VERSION,
    MAINTAINED_LAYOUT_VERSION,
    Keys,
    Table,
    own_table,
)
from userservice_server.store.links import LAYOUT, ROUTES, Links, LinkSettings, OneServer
from userservice_server.store.partitioned_layout import PartitionedLayout
from userservice_server.store.partitions import CLUSTER_PARTITIONS, PARTITION_COUNTS
from userservice_server.store.running import run
from userservice_server.store.scripts import Script
from userservice_server.store.server_checks import check_permissions, check_server, explaining
from userservice_server.store.sizes import Sizes, count_sessions, read_sizes
from userservice_server.store.sweeping import Step, partitions_with_queue, sweep
from userservice_server.store.topology import Topology
from userservice_server.store.topology.cluster import ClusterServers
from userservice_server.wire.emails import UNICODE_VERSION, index_member, key_of_new, key_of_record
from userservice_server.wire.expiry import MICROSECONDS_A_SECOND
from userservice_server.wire.outcomes import Code, Outcome

logger = logging.getLogger("userservice.store")

_OF_A_CLUSTER = "the server is part of a cluster; use redis-cluster://HOST:PORT"
_WITH_IDS = "WITHSCORES"  # the score of a record is its id
_CLOCK_LOG_SECONDS = 60.0  # between two log lines about the store's clock
_UNICODE = UNICODE_VERSION.encode()

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

    def __init__(
        self,
        topology: Topology | ClusterServers,
        *,
        key_prefix: str,
        timeout: float,
        partitions: int | None = None,
        wait_replicas: int = 0,
        events: StoreEvents | None = None,
    ) -> None:
        """Prepares the connections, which connect at the first call; those to a cluster connect in ``open``.

        Args:
            topology: finds the servers, and makes connections to them.
            key_prefix: prefix of all keys.
            timeout: limit in seconds for connecting and for each reply.
            partitions: number of partitions; None: that of the store, or the default for a new store.
            wait_replicas: number of replicas that must confirm a write before the service acknowledges it.
            events: observes the store.
        """
        self.events = events
        self._prefix = key_prefix
        self._wanted_partitions = partitions
        self._is_cluster = isinstance(topology, ClusterServers)
        # Checked at the start, because these commands are sent only later: when slots move, and after writes.
        self._commands = [*(["ASKING"] if self._is_cluster else []), *(["WAIT"] if wait_replicas else [])]
        self._use_partitions(partitions or (CLUSTER_PARTITIONS if self._is_cluster else 1))
        settings = LinkSettings(self._check, timeout, events, wait_replicas)
        self._links: Links = (
            ClusterNodes(topology, self._keys.layout, settings)
            if isinstance(topology, ClusterServers)
            else OneServer(topology, settings)
        )
        self._calls, self._bulk, self._writes = self._links.calls, self._links.bulk, self._links.writes  # by partition
        self._looking: asyncio.Task[None] | None = None
        self._clock_logged_at = -math.inf
        self._checked = 0  # connections
        self._is_joint = False

    def _use_partitions(self, partitions: int) -> None:
        self.tables = self._keys = Keys(self._prefix, partitions)
        self._layout = StoreLayout(self._keys, partitions) if partitions == 1 else PartitionedLayout(self._keys)

    async def open(self) -> None:
        """Connects; returns if all servers have passed the checks (see ``_check``), and identifies the store.

        Raises:
            UnsuitableStoreError: Redis is too old, has another topology, may evict users or contains another layout, or
                required keys are missing.
            StoreUnavailableError: a server cannot be reached, or is loading.
        """
        try:
            await self._links.open()
            if self._is_cluster:
                with explaining(in_cluster=True):
                    await self._choose_partitions(self._calls[LAYOUT])
                    await self._links.use([table.rows for table in self._keys.all_users()])
                    await self._settle(self._calls)
        except StoreUnavailableError as error:
            if isinstance(error.__cause__, UnsuitableStoreError):
                raise error.__cause__ from error.__cause__.__cause__
            raise

    async def _check(self, send: Send) -> None:
        """Checks over a new connection whether the server is suitable, and identifies the store on it.

        Creates a new store in an empty Redis. Raises UnfitForWritesError, and the errors of ``open``, except if the
        store loses keys while the server is running: reads then continue where possible, and writes are rejected (see
        ``write``).
        """
        self._checked += 1
        with explaining(in_cluster=self._is_cluster):
            await check_server(send, self._keys.layout, self._feed_key, self._commands, in_cluster=self._is_cluster)
            if not self._is_cluster:
                await self._settle_over(send)
                self._is_joint = self._keys.partitions > 1 and await self._can_read_jointly(send)
            elif self.identity is not UNKNOWN:  # the other connections are needed for this, so it happens afterwards
                self._start_looking()

    async def _settle_over(self, send: Send) -> None:
        """Identifies the store over a new connection.

        If the store was in use before, OtherLayoutError becomes UnfitForWritesError, and other faults of the layout
        raise nothing, because reads may continue.
        """
        try:
            if self.identity is UNKNOWN:
                await self._choose_partitions(send)
            await self._settle([send] * ROUTES)
        except LayoutError as error:
            if self.identity is UNKNOWN:
                raise
            if isinstance(error, OtherLayoutError):  # scripts do not detect another layout
                raise UnfitForWritesError from error

    async def _can_read_jointly(self, send: Send) -> bool:
        """Returns whether a script can use keys of several partitions: not if a proxy hides the shards of a cluster."""
        try:
            await run(send, scripts.JOINT_ENDS, [table.rows for table in self._keys.all_users()], ("first", ""))
        except ClusterCrossSlotError:
            return False
        return True

    async def _choose_partitions(self, send: Send) -> None:
        """Uses the number of partitions that the layout contains, if there is a layout."""
        stored, wanted = await send("HGET", self._keys.layout, "partitions"), self._wanted_partitions
        if stored is not None and stored.isdigit() and int(stored) in PARTITION_COUNTS:
            if wanted is not None and int(stored) != wanted:
                text = f"the store has {int(stored)} partitions, and --partitions {wanted} cannot change that"
                raise LayoutError(f"{text}; use userservice migrate")
            self._use_partitions(int(stored))
        if self._is_cluster and self._keys.partitions == 1:
            raise LayoutError("a store with one partition cannot be in a cluster; use 16 or 64 partitions")

    async def _settle(self, sends: Sequence[Send]) -> None:
        if isinstance(self._layout, PartitionedLayout):
            await self._layout.settle_all(sends, lambda partition, *script: run(sends[partition], *script))
        else:
            await self._layout.settle(sends[LAYOUT], partial(run, sends[LAYOUT]))

    @property
    def _feed_key(self) -> bytes:
        """The key of one of the feeds, if the feed is on; else empty."""
        return self._keys.all_users()[0].feed if self._layout.has_feed else b""

    def _start_looking(self) -> "asyncio.Task[None]":
        """Starts to identify the store (see `StoreLayout.settle`); concurrent calls share one check."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._settle(self._calls))
            self._looking.add_done_callback(self._looked)
        return self._looking

    async def _look(self) -> None:
        await asyncio.shield(self._start_looking())

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
        is_shared = self._looking is not None
        try:
            try:
                await self._look()
            except LayoutError:
                if not is_shared:
                    raise
                await self._look()  # the first check began before the call, perhaps while the store was being emptied
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

    async def close(self) -> None:
        """Closes the connections."""
        if self._looking is not None:
            self._looking.cancel()
        await self._links.close()

    async def probe(self) -> None:
        """Checks that Redis executes writes on all connections and contains the expected store; changes no value.

        In a cluster, it is enough that some partitions are available.

        Raises:
            StoreUnavailableError: a check failed.
        """
        await self._links.probe(self._run_probe)
        try:
            for send in self._links.servers():
                await check_permissions(send, self._keys.layout, self._feed_key, self._commands)
        except UnsuitableStoreError as error:
            self.distrust()  # new connections fail the same check, so no script stops half-way
            raise unavailable(error) from error
        except StoreUnavailableError:
            if not self._is_cluster:  # in a cluster, a node can become unavailable after the probe
                raise
        if self._links.is_complete:
            await self._confirm()

    async def _confirm(self) -> None:
        """Identifies the store again; raises StoreUnavailableError if it cannot be used."""
        try:
            await self._look()
        except (LayoutError, StoreFullError, ResponseError) as error:
            raise unavailable(error) from error
        except StoreUnavailableError:
            if not self._is_cluster:  # as in probe
                raise

    async def renew(self) -> None:
        """Makes new connections, which resolves the address again, and uses them from now on if they pass the probe.

        Until then, and if they do not pass, the present connections stay in use: they may still serve reads.

        Raises:
            StoreUnavailableError: the new connections failed the probe, or their store cannot be used.
        """
        await self._links.renew(self._run_probe)
        if self._is_cluster and self._links.is_complete:
            await self._confirm()
        if self._layout.fault:
            raise unavailable(LayoutError(self._layout.fault))

    async def _run_probe(self, send: Send, partition: int, waits: bool) -> object:  # noqa: FBT001 - as Probe has it
        table = self._keys.all_users()[partition]
        return await run(send, scripts.PROBE, (table.layout, *((table.last_id,) if waits else ())), ())

    def distrust(self) -> None:
        """Closes the connections, after a reply that cannot be right. The next command makes new ones."""
        self._links.distrust()

    async def sizes(self) -> Sizes:
        """Returns the numbers of users and sessions."""
        return await read_sizes(self._bulk, self._keys.all_users())

    async def count_more_sessions(self) -> bool:
        """Counts the sessions of the next users of a store without a session count; returns whether users remain."""
        send = self._bulk[LAYOUT]  # such a store has one partition
        return await count_sessions(send, partial(run, send), self._keys, self.identity.store_id)

    async def fence(self) -> int:
        """Raises the last ids of all partitions, so that all later ids are above all ids that exist now.

        Returns:
            The largest of the last ids: all ids that exist now are at most this one, and all later ids are larger.

        Raises:
            StoreChangedError: the store was emptied, replaced or damaged.
        """
        return await raise_last_ids(self._keys.all_users(), self.identity.store_id, self._bulk, self._writes)

    async def add(
        self,
        table: ports.Table,
        key: str,
        head: bytes,
        tail: bytes,
        idempotency_key: IdempotencyKey,
        *,
        is_update: bool = False,
        ends_at: int | None = None,
    ) -> Outcome:
        """Adds a record made of ``head``, the id that the store assigns, and ``tail``."""
        own = own_table(table)
        redis_keys = (own.rows, own.index, own.last_id, _request_key(own, idempotency_key), *_owner_keys(own))
        email_key = "" if own.owner else optional_number(key_of_new(tail))
        more = (optional_number(ends_at), int(is_update), email_key)
        arguments = (key, head, tail, idempotency_key.fingerprint, own.partition, own.owner, *more)
        return self._outcome(await self.write(scripts.ADD, own, redis_keys, arguments))

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
        own = own_table(table)
        redis_keys, arguments = (own.rows, own.index, *_owner_and_expiry(own)), (key, own.owner)
        outcome = self._outcome(await self._observed(self._calls[own.partition], scripts.GET, redis_keys, arguments))
        if self._layout.fault and self._may_be_lost(outcome):
            await self.look_again(self.identity)
            reply = await self._observed(self._calls[own.partition], scripts.GET, redis_keys, arguments)
            outcome = self._outcome(reply)
        if outcome.code is Code.STORE_CHANGED:
            raise StoreChangedError("the store has lost data; an operator must act")
        return outcome

    def _may_be_lost(self, outcome: Outcome) -> bool:
        """Returns whether a record may be missing because its partition was lost."""
        return self._keys.partitions > 1 and outcome.code in (Code.NOT_FOUND, Code.OWNER_NOT_FOUND)

    async def get_many(self, table: ports.Table, keys: Sequence[str], identity: StoreIdentity) -> "list[bytes | None]":
        """Returns the records of the keys; None for a key without a record."""
        own = own_table(table)
        redis_keys = (own.store_id, own.rows, own.index)
        arguments: tuple[bytes | str, ...] = (known_identity(identity).store_id, *keys)
        send = self._bulk[own.partition]
        records: bytes | list[bytes | None] = await self._observed(send, scripts.BATCH_GET, redis_keys, arguments)
        if isinstance(records, bytes):
            raise StoreChangedError.during_read()
        return records

    async def find(self, table: ports.Table, query: FindQuery, identity: StoreIdentity) -> FoundUsers:
        """Finds users of a partition by the keys of their e-mail addresses."""
        own, expected = own_table(table), known_identity(identity)
        expected.check_cursor(query.after)
        redis_keys = (own.store_id, own.layout, own.rows, own.index, *own.email_index)
        limits = (query.after, query.most_of_one, query.limit, query.most_bytes)
        arguments: tuple[bytes | int, ...] = (expected.store_id, *limits, *map(index_member, query.keys))
        reply = await self._observed(self._bulk[own.partition], scripts.FIND, redis_keys, arguments)
        if isinstance(reply, bytes):
            raise StoreChangedError.during_read()
        state, version, reached, records = reply
        _check_index(state, version)
        return FoundUsers(int(reached), records)

    async def replace(
        self,
        table: ports.Table,
        key: str,
        old: bytes,
        verdict: Outcome,
        idempotency_key: IdempotencyKey,
        *,
        ends_at: int | None = None,
        is_reported: bool = True,
    ) -> Outcome:
        """Applies ``verdict`` if ``old`` is still the record; returns CONFLICT with the present record if not."""
        own = own_table(table)
        more_keys = _owner_and_expiry(own) or own.email_index
        redis_keys = (own.rows, own.index, _request_key(own, idempotency_key), *more_keys)
        is_new_user = verdict.code is Code.DONE and not own.owner
        email_key = optional_number(key_of_record(verdict.payload)) if is_new_user else ""
        more = (optional_number(ends_at), int(is_reported), email_key)
        arguments = (key, old, verdict.encode(), idempotency_key.fingerprint, own.owner, *more)
        return self._outcome(await self.write(scripts.REPLACE, own, redis_keys, arguments))

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
        own = own_table(table)
        more_keys = _owned_keys(own_table(owned)) if owned else _owner_keys(own)
        redis_keys = (own.rows, own.index, _request_key(own, idempotency_key), *more_keys)
        arguments = (key, old, verdict.encode(), idempotency_key.fingerprint, own.owner)
        return self._outcome(await self.write(scripts.DELETE, own, redis_keys, arguments))

    def range(
        self,
        table: ports.Table,
        after: int,
        count: int,
        identity: StoreIdentity,
        *,
        is_resumed: bool = False,
        descending: bool = False,
        end: int = 0,
    ) -> "asyncio.Future[list[bytes]]":
        """Starts to read up to ``count`` records with ids above ``after``, in the order of their ids.

        Args:
            table: the table to read.
            after: the read starts after this id.
            count: maximum number of records.
            identity: the store that these records, and all replies to earlier commands, must come from.
            is_resumed: whether ``after`` is a cursor that a caller sent, perhaps of another store.
            descending: whether to read ids below ``after`` instead, the largest first; 0 starts at the newest record.
            end: the largest id to read, which a caller sent; 0: no limit. Only if not ``descending``.
        """
        read, expected = ports.TableRead(table, after, count), known_identity(identity)
        _check_cursors(expected, [read], is_resumed=is_resumed, end=end)
        return self._range(read, expected, is_resumed=is_resumed, descending=descending, end=end)

    def _range(
        self,
        read: ports.TableRead,
        expected: Identity,
        *options: str,
        is_resumed: bool,
        descending: bool,
        end: int,
    ) -> "asyncio.Future[list[bytes]]":
        """Starts to read a range, whose cursors were checked; ``options`` are further options of ZRANGE."""
        own, after = own_table(read.table), read.after
        send = self._bulk[own.partition]
        reply = send(*_range_command(read, descending=descending, end=end), *options)
        checks = [
            Check(send("GET", own.store_id), partial(eq, expected.store_id), StoreChangedError.during_read),
            # Scripts always write both keys. If the rows were lost, a store with users would look empty.
            Check(send("EXISTS", own.rows, own.index), is_pair, StoreChangedError.during_read),
        ]
        # The record of a cursor is in one of the partitions only, so this needs a store with one partition.
        if is_resumed and after <= expected.doubtful_until and self._keys.partitions == 1:
            checks.append(Check(send("ZRANGE", own.rows, after, after, "BYSCORE"), bool, foreign_cursor))
        return self._reported(checked(reply, checks))

    def _reported(self, records: "asyncio.Future[T]") -> "asyncio.Future[T]":
        """Returns the future of a read of ranges, and reports the read to ``events``."""
        if self.events is not None:
            records.add_done_callback(partial(_report_range, self.events, time.perf_counter()))
        return records

    async def ranges(
        self,
        reads: Sequence[ports.TableRead],
        identity: StoreIdentity,
        *,
        is_resumed: bool,
        descending: bool,
        end: int,
    ) -> list[list[bytes]]:
        """Reads ranges of several tables; each record is followed by its id. See ``range``."""
        expected = known_identity(identity)
        _check_cursors(expected, reads, is_resumed=is_resumed, end=end)
        if self._is_joint:
            commands = [_range_command(read, descending=descending, end=end) for read in reads]
            found = await self._joint_ranges(commands, expected)
            if found is not None:
                return found
        ranges = (
            self._range(read, expected, _WITH_IDS, is_resumed=is_resumed, descending=descending, end=end)
            for read in reads
        )
        return await asyncio.gather(*ranges)

    async def _joint_ranges(
        self, commands: Sequence[tuple[bytes | str | int, ...]], expected: Identity
    ) -> list[list[bytes]] | None:
        """Reads ranges of partitions of one server, with one check of the store for all of them.

        One check for each range would take a quarter of the time of a read of 2000 users.

        Returns:
            The ranges; None if a partition is empty or has lost one of its keys, which this check cannot distinguish.
        """
        send, tables = self._bulk[LAYOUT], self._keys.all_users()
        ranges = [send(*command, _WITH_IDS) for command in commands]
        # A server is replaced as a whole, so the store id of one partition is enough.
        store_id = send("GET", tables[0].store_id)
        existing = send("EXISTS", *(key for table in tables for key in (table.rows, table.index)))
        *found, stored, number = await self._reported(asyncio.gather(*ranges, store_id, existing))
        if stored != expected.store_id:
            raise StoreChangedError.during_read()
        return found if number == 2 * len(tables) else None

    @property
    def is_joint(self) -> bool:
        """Whether there are several partitions, all on one server, so that one script can read them."""
        return self._is_joint

    async def joint_range(
        self, after: int, count: int, identity: StoreIdentity, *, is_resumed: bool, descending: bool, end: int
    ) -> list[bytes]:
        """Reads up to ``count`` users of all partitions in the order of their ids; see ``range``."""
        expected = known_identity(identity)
        if is_resumed:
            expected.check_cursor(after)
        expected.check_cursor(end)
        if descending:
            bounds = ("REV", f"({after}" if after else "+inf", "-inf")
        else:
            bounds = ("", f"({after}", str(end or "+inf"))
        tables = self._keys.all_users()
        redis_keys = [key for table in tables for key in (table.rows, table.index)]
        redis_keys += [table.store_id for table in tables]
        arguments = (expected.store_id, *bounds, count)
        reply: list[bytes] | bytes = await self._observed(
            self._bulk[LAYOUT], scripts.JOINT_RANGE, redis_keys, arguments
        )
        if isinstance(reply, bytes):
            raise StoreChangedError.during_read()
        return reply

    async def joint_ends(self, *, descending: bool, end: int) -> Ends:
        """Returns the number of users of all partitions, and the newest user up to ``end``, or the oldest user."""
        redis_keys = [table.rows for table in self._keys.all_users()]
        arguments = ("first", "") if descending else ("last", end or "")
        size, record = await self._observed(self._bulk[LAYOUT], scripts.JOINT_ENDS, redis_keys, arguments)
        return Ends(size, [record] if record else [])

    def newest(self, table: ports.Table, end: int = 0) -> "asyncio.Future[list[bytes]]":
        """Starts to read the newest record, or the newest up to the id ``end``: a list of one record or none."""
        own = own_table(table)
        send = self._bulk[own.partition]
        if end:
            return send("ZRANGE", own.rows, end, "-inf", "BYSCORE", "REV", "LIMIT", 0, 1)
        return send("ZRANGE", own.rows, -1, -1)

    def oldest(self, table: ports.Table) -> "asyncio.Future[list[bytes]]":
        """Starts to read the oldest record: a list of one record, or an empty list."""
        own = own_table(table)
        return self._bulk[own.partition]("ZRANGE", own.rows, 0, 0)

    def size(self, table: ports.Table) -> "asyncio.Future[int]":
        """Starts to count the records."""
        own = own_table(table)
        return self._bulk[own.partition]("ZCARD", own.rows)

    async def cuts(self, table: ports.Table, parts: int, identity: StoreIdentity) -> list[int]:
        """Divides the records into up to ``parts`` ranges; returns the last id of each range."""
        own, expected = own_table(table), known_identity(identity)
        redis_keys, arguments = (own.store_id, own.rows, own.index), (expected.store_id, parts)
        ends = await self._observed(self._bulk[own.partition], scripts.CUTS, redis_keys, arguments)
        if isinstance(ends, bytes):
            raise StoreChangedError.during_read()
        return list(map(int, ends))

    def has_owner(self, table: ports.Table) -> "asyncio.Future[int]":
        """Starts to check whether the owner of the table exists: 1 or 0."""
        own = own_table(table)
        return self._bulk[own.partition]("HEXISTS", own.owner_index, own.owner)

    async def now(self, table: ports.Table) -> int:
        """Returns the time of the clock of the table's server, in microseconds since 1970."""
        seconds, microseconds = await self._calls[own_table(table).partition]("TIME")
        return int(seconds) * MICROSECONDS_A_SECOND + int(microseconds)

    async def ended(self, table: ports.Table) -> tuple[frozenset[int], int]:
        """Returns the ids of the expired sessions that are still in the table, and the number of the other sessions."""
        own = own_table(table)
        redis_keys = (own.rows, own.session_expiry)
        reply = await self._observed(self._bulk[own.partition], scripts.EXPIRED, redis_keys, ())
        count, *ended = map(int, reply)
        return frozenset(ended), count - len(ended)

    async def revoke(self, table: ports.Table, kept: str, idempotency_key: IdempotencyKey) -> Outcome:
        """Removes all sessions of the table, except the session with the session_id ``kept``."""
        own = own_table(table)
        redis_keys = (own.rows, own.index, _request_key(own, idempotency_key), *_owner_keys(own))
        return self._outcome(
            await self.write(scripts.REVOKE, own, redis_keys, (own.owner, kept, idempotency_key.fingerprint))
        )

    async def sweepable(self) -> list[int]:
        """Returns the numbers of the available partitions in which sessions may have expired."""
        return await partitions_with_queue(self._keys, self._bulk)

    async def sweep(self, partition: int) -> Step:
        """Removes some of the expired sessions of a partition."""
        table, reads, writes = self._keys.all_users()[partition], self._bulk[partition], self._writes[partition]
        return await sweep(self._keys, table, self.identity.store_id, reads, writes)

    async def write(
        self, script: Script, table: Table, redis_keys: Sequence[bytes], arguments: Sequence[bytes | str | int]
    ) -> Any:
        """Runs a script that writes, but only in the store that the server expects; returns its reply.

        In another store, the script writes nothing. It runs again if the server expects that store afterwards.
        """
        for _ in range(MOST_STORES):
            identity = self.identity
            if not self._layout.fault:
                every_key = (table.store_id, table.layout, *redis_keys, table.feed)
                reply = await self._observed(
                    self._writes[table.partition], script, every_key, (identity.store_id, *arguments)
                )
                if reply == Code.WRONG_CLOCK.value:
                    raise self._wrong_clock()
                if reply != Code.STORE_CHANGED.value:
                    return reply
            await self.look_again(identity)
        raise StoreChangedError("the store was emptied, replaced or damaged; nothing was changed")

    async def allow_older_ids(self) -> None:
        """Removes the lower limit of the ids of the store, because an import restores users with older ids."""
        await self._writes[LAYOUT]("HSET", self._keys.layout, "lowest_id", 0)
        await self._look()

    async def read(
        self, script: Script, table: Table, redis_keys: Sequence[bytes], arguments: Sequence[bytes | str | int]
    ) -> Any:
        """Runs a script that only reads a partition, and that compares the store id; returns its reply."""
        for _ in range(MOST_STORES):
            identity = self.identity
            every_key = (table.store_id, *redis_keys)
            reply = await self._observed(
                self._bulk[table.partition], script, every_key, (identity.store_id, *arguments)
            )
            if reply != Code.STORE_CHANGED.value:
                return reply
            await self.look_again(identity)
        raise StoreChangedError.during_read()

    # For the feed of changes

    @property
    def links(self) -> Links:
        """The connections of the store."""
        return self._links

    @property
    def connections(self) -> object:
        """Differs from an earlier value if a connection was made, or the server of a partition changed, since then."""
        return self._checked, frozenset(self._links.listeners())

    @property
    def has_feed(self) -> bool:
        """Whether the feed of changes was on at the last check of the store."""
        return self._layout.has_feed

    async def run_in_bulk(
        self, script: Script, table: Table, redis_keys: Sequence[bytes], arguments: Sequence[bytes | str | int]
    ) -> Any:
        """Runs a script that only reads a partition; returns its reply."""
        return await self._observed(self._bulk[table.partition], script, redis_keys, arguments)

    async def run_write(
        self, script: Script, table: Table, redis_keys: Sequence[bytes], arguments: Sequence[bytes | str | int]
    ) -> Any:
        """Runs a script that writes to a partition, and that compares the store id; returns its reply."""
        every_key = (table.store_id, table.layout, *redis_keys)
        return await run(self._writes[table.partition], script, every_key, (self.identity.store_id, *arguments))

    def record(self, table: ports.Table, record_id: int) -> "asyncio.Future[list[bytes]]":
        """Starts to read the record with an id: a list of one record, or an empty list."""
        own = own_table(table)
        return self._bulk[own.partition]("ZRANGE", own.rows, record_id, record_id, "BYSCORE")

    def last_entry(self, table: ports.Table) -> "asyncio.Future[list[list[Any]]]":
        """Starts to read the newest entry of the feed of a partition."""
        own = own_table(table)
        return self._bulk[own.partition]("XREVRANGE", own.feed, "+", "-", "COUNT", 1)

    async def layout_fields(self, *names: str) -> "list[bytes | None]":
        """Returns fields of the layout of the store."""
        found: list[bytes | None] = await self._calls[LAYOUT]("HMGET", self._keys.layout, *names)
        return found

    async def check_feed_permissions(self) -> None:
        """Raises UnsuitableStoreError if the scripts need a command for the feed that they may not run.

        If the feed was turned on nevertheless, the servers could not use the store any more.
        """
        for send in self._links.servers():
            await check_permissions(send, self._keys.layout, self._keys.all_users()[0].feed, self._commands)

    async def set_feed(self, fields: "Mapping[str, bytes | int] | None") -> None:
        """Writes the fields of the feed into the layout of the store; None removes them."""
        if fields is None:
            await self._writes[LAYOUT]("HDEL", self._keys.layout, "feed", "feed_entries", "feed_seconds")
        else:
            await self.set_layout(fields)
        await self._look()

    async def raise_version(self) -> None:
        """Writes the version of the layout that servers without feed and e-mail index reject."""
        await self.set_layout({"version": MAINTAINED_LAYOUT_VERSION})

    async def lower_version(self) -> None:
        """Writes the version of the layout that all servers accept, if the store has neither feed nor e-mail index."""
        await run(self._writes[LAYOUT], scripts.LOWER_VERSION, (self._keys.layout,), (LAYOUT_VERSION,))

    # For the e-mail index

    async def set_layout(self, fields: "Mapping[str, bytes | str | int]") -> None:
        """Writes fields of the layout of the store."""
        await self._writes[LAYOUT]("HSET", self._keys.layout, *chain.from_iterable(fields.items()))

    def read_rows(self, table: Table, after: bytes, count: int) -> "asyncio.Future[list[bytes]]":
        """Starts to read the records with the next ids after an id, each followed by its id."""
        return self._bulk[table.partition](
            "ZRANGE", table.rows, b"(" + after, "+inf", "BYSCORE", "LIMIT", 0, count, "WITHSCORES"
        )

    async def _observed(
        self, send: Send, script: Script, redis_keys: Sequence[bytes], arguments: Sequence[bytes | str | int]
    ) -> Any:
        """Runs a script and reports its duration; returns its reply."""
        events = self.events
        if events is None:
            return await run(send, script, redis_keys, arguments)
        started = time.perf_counter()
        try:
            reply = await run(send, script, redis_keys, arguments)
        except BaseException as error:
            events.failed(script.name, time.perf_counter() - started, error)
            raise
        events.replied(script.name, time.perf_counter() - started)
        return reply

    def _outcome(self, reply: Any) -> Outcome:
        """Returns the outcome in the reply of a script."""
        is_replay = isinstance(reply, list)
        try:
            if is_replay:  # see recorded_outcome in scripts/_outcome.lua
                (reply,) = reply
            outcome = Outcome.parse(reply)
        except ValueError:
            self.distrust()
            raise
        if self.events is not None:
            if is_replay:
                self.events.replayed()
            elif outcome.code is Code.CONFLICT:
                self.events.conflicted()
        return outcome


def _check_index(state: bytes, version: bytes) -> None:
    """Raises IndexNotReadyError if the e-mail index is not complete, or was built for an older version of Unicode."""
    if state == FILLING:
        raise IndexNotReadyError("the e-mail index is being built; retry later")
    if state != COMPLETE:  # also if the index has an earlier form
        raise IndexNotReadyError("the e-mail index does not exist; an operator can build it with userservice reindex")
    if version != _UNICODE and parsed_version(version) < parsed_version(_UNICODE):
        raise IndexNotReadyError(
            "the e-mail index was built for an older version of Unicode; "
            "an operator can build it again with userservice reindex"
        )


def parsed_version(text: bytes) -> tuple[int, ...]:
    """Returns a version such as 15.1.0 as numbers."""
    return tuple(int(part) for part in text.split(b".") if part.isdigit())


def _check_cursors(expected: Identity, reads: Sequence[ports.TableRead], *, is_resumed: bool, end: int) -> None:
    """Raises StoreChangedError if the start or the end of a read is a cursor of another store."""
    if is_resumed:
        for read in reads:
            expected.check_cursor(read.after)
    expected.check_cursor(end)


def _range_command(read: ports.TableRead, *, descending: bool, end: int) -> tuple[bytes | str | int, ...]:
    """Returns the command that reads a range; see ``RedisStore.range``."""
    rows = own_table(read.table).rows
    if descending:
        start = f"({read.after}" if read.after else "+inf"
        return ("ZRANGE", rows, start, "-inf", "BYSCORE", "REV", "LIMIT", 0, read.most)
    return ("ZRANGE", rows, f"({read.after}", end or "+inf", "BYSCORE", "LIMIT", 0, read.most)


def _report_range(events: StoreEvents, started: float, records: "asyncio.Future[Any]") -> None:
    """Reports the read of a range, or of several ranges, unless its list has ended before the reply."""
    if records.cancelled():
        return
    seconds, error = time.perf_counter() - started, records.exception()
    if error is None:
        events.replied("range", seconds)
    else:
        events.failed("range", seconds, error)


def _request_key(table: Table, idempotency_key: IdempotencyKey) -> bytes:
    return table.request_prefix + idempotency_key.request_id.encode()


def _owner_and_expiry(table: Table) -> tuple[bytes, ...]:
    return (table.owner_index, table.session_expiry) if table.owner else ()


def _owner_keys(table: Table) -> tuple[bytes, ...]:
    """Returns the keys that adding or removing a session needs, or those that adding a user needs."""
    if not table.owner:
        return table.email_index
    return (table.owner_index, table.session_count, table.session_expiry, table.expiry_queue)


def _owned_keys(sessions: Table) -> tuple[bytes, ...]:
    """Returns the keys that removing a user needs, given the table of its sessions."""
    expiry = (sessions.session_expiry, sessions.expiry_queue)
    return (sessions.rows, sessions.index, sessions.session_count, *expiry, *sessions.email_index)


def optional_number(number: int | None) -> int | str:
    """Returns a number as an argument of a script; None becomes an empty argument."""
    return "" if number is None else number
