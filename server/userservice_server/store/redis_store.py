"""The store of records on Redis or Valkey: tables of encoded records that are added, read and replaced by name."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Self

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, NoPermissionError, NoScriptError, RedisError, ResponseError

from userservice_server.errors import StoreFullError, StoreUnavailableError
from userservice_server.store import scripts
from userservice_server.store.connection import SharedConnection
from userservice_server.store.keys import LAYOUT_VERSION, Keys, Table
from userservice_server.store.scripts import Script

logger = logging.getLogger("userservice.store")

PARTITIONS = 1  # one Redis needs no more; a cluster would


class Code(Enum):
    """How a call to the store came out; the letters are those of scripts/_outcome.lua."""

    DONE = b"K"
    EXISTS = b"E"
    NOT_FOUND = b"N"
    OWNER_NOT_FOUND = b"P"
    ETAG_MISMATCH = b"M"
    REFUSED = b"V"
    REQUEST_ID_REUSED = b"R"
    CONFLICT = b"C"


_CODES = {code.value: code for code in Code}
_WITH_PAYLOAD = frozenset({Code.DONE, Code.REFUSED, Code.CONFLICT})


class Outcome(NamedTuple):
    """What a call to the store came to.

    The payload of DONE is a record, of REFUSED the reasons; of a CONFLICT it is the record now, empty if unknown.
    """

    code: Code
    payload: bytes = b""

    @classmethod
    def parse(cls, reply: bytes) -> Self:
        """Reads an outcome as the scripts write it.

        Raises:
            ValueError: no script answers so.
        """
        code, payload = _CODES.get(reply[:1]), reply[1:]
        if code is None or (payload and code not in _WITH_PAYLOAD):
            raise ValueError("not an outcome")
        return cls(code, payload)

    def encode(self) -> bytes:
        """Writes an outcome as the scripts read it."""
        return self.code.value + self.payload


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request_id, and the digest (16 bytes) of the request that it came with."""

    request_id: str
    fingerprint: bytes


NO_ATTEMPT = Attempt("", b"")


class UnsuitableStoreError(Exception):
    """The store answers but cannot be used as it is. The text is meant for the operator."""


class RedisStore:
    """Tables of records in Redis.

    Raises StoreUnavailableError where Redis is away, slow, loading or read-only, and StoreFullError where it is full.
    """

    def __init__(self, url: str, *, key_prefix: str, timeout: float) -> None:
        """Prepares a store; nothing is connected before the first call.

        Args:
            url: where Redis is, in the forms that redis-py takes (redis://, rediss://, unix://).
            key_prefix: what all keys begin with.
            timeout: seconds that connecting and each reply may take.

        Raises:
            ValueError: the URL cannot be read. The text may quote the URL.
        """
        pool = ConnectionPool.from_url(
            url,
            protocol=2,  # RESP3 would let the server push what nobody asked for
            retry=Retry(NoBackoff(), 0),  # a retried write could be applied twice; callers retry by request_id
            health_check_interval=0,
            socket_timeout=None,  # SharedConnection watches the time
            decode_responses=False,
        )
        try:
            pool.make_connection()  # type: ignore[no-untyped-call]  # is not connected: only sees whether it takes the options of the URL
        except (TypeError, RedisError) as error:
            raise ValueError("the URL has an option that is not known") from error
        self.keys = Keys(key_prefix, PARTITIONS)
        # Long replies (pages, chunks, batches) have a connection of their own, so that short ones need not wait.
        self._make_connection: Callable[[], AbstractConnection] = pool.make_connection
        self._timeout = timeout
        self._calls = SharedConnection(pool.make_connection, timeout)
        self._bulk = SharedConnection(pool.make_connection, timeout, quiet_turns=0, long_replies=True)

    async def open(self) -> None:
        """Checks that this Redis can hold the store, and marks it as one on its first use.

        Raises:
            UnsuitableStoreError: it is too old, is part of a cluster, may evict users, or holds another layout.
            StoreUnavailableError: it cannot be reached, or is loading.
        """
        try:
            await self._load_scripts()
            await self._check_layout()
            await self._check_eviction()
        except NoPermissionError as error:
            raise UnsuitableStoreError("the Redis user lacks permissions: docs/operations.md lists them") from error
        except MovedError as error:
            raise UnsuitableStoreError("a Redis Cluster is not supported") from error
        except StoreFullError as error:
            raise UnsuitableStoreError("the store is not marked as one yet, and has no memory left for that") from error
        except ResponseError as error:
            raise UnsuitableStoreError("what the store has under the key prefix is not of this service") from error

    async def _load_scripts(self) -> None:
        try:
            for loading in [self._calls.send("SCRIPT", "LOAD", script.text) for script in scripts.ALL]:
                await loading
        except (NoPermissionError, MovedError):
            raise
        except ResponseError as error:
            raise UnsuitableStoreError("the store refuses the scripts: Redis 7.0 or Valkey 8 is needed") from error

    async def _check_layout(self) -> None:
        needed = {"version": LAYOUT_VERSION, "partitions": PARTITIONS}
        # Reading comes first, so that a read-only replica of a store can serve reads.
        found = await self._calls.send("HMGET", self.keys.layout, *needed)
        if None in found:
            # In one command, so that no crash leaves half of it.
            missing = [
                part for pair, value in zip(needed.items(), found, strict=True) if value is None for part in pair
            ]
            await self._calls.send("HSET", self.keys.layout, *missing)
            # Whoever has mistyped the prefix or the database sees it here.
            logger.info("a new, empty store was made", extra={"layout_key": self.keys.layout.decode()})
            found = await self._calls.send("HMGET", self.keys.layout, *needed)
        for (name, wanted), value in zip(needed.items(), found, strict=True):
            if value != str(wanted).encode():
                text = (value or b"").decode(errors="replace")
                raise UnsuitableStoreError(f"the store has layout {name} {text}, this service needs {wanted}")

    async def _check_eviction(self) -> None:
        try:
            lines = (await self._calls.send("INFO", "memory")).decode().splitlines()
        except NoPermissionError:
            return  # a permission that the service itself has no need of
        info = dict(line.split(":", 1) for line in lines if ":" in line)
        policy = info.get("maxmemory_policy", "")
        if policy.startswith("allkeys") and info.get("maxmemory") != "0":
            raise UnsuitableStoreError(f"the store may evict users: its maxmemory-policy is {policy}, not noeviction")

    async def close(self) -> None:
        """Closes the connections."""
        await asyncio.gather(self._calls.close(), self._bulk.close())

    async def ping(self) -> None:
        """Returns if Redis answers on both connections, else raises StoreUnavailableError."""
        try:
            answers = await asyncio.gather(self._calls.send("PING"), self._bulk.send("PING"))
        except RedisError as error:
            raise StoreUnavailableError("the store is not available") from error
        if list(answers) != [b"PONG", b"PONG"]:  # somebody else's replies
            self.distrust()
            raise StoreUnavailableError("the store is not available")

    async def greet(self) -> None:
        """Returns if Redis answers on a new connection, made for that, else raises StoreUnavailableError."""
        connection = self._make_connection()
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("PING")
                await connection.read_response()
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailableError("the store is not available") from error
        finally:
            await connection.disconnect(nowait=True)

    @property
    def waits_for(self) -> float:
        """For how many seconds the oldest call without a reply has been waiting."""
        return max(self._calls.waits_for, self._bulk.waits_for)

    def distrust(self) -> None:
        """Throws the connections away, after an answer that cannot be right."""
        self._calls.reset()
        self._bulk.reset()

    async def add(self, table: Table, name: str, head: bytes, tail: bytes, attempt: Attempt) -> Outcome:
        """Adds a record made of ``head``, the id that the store gives it, and ``tail``."""
        keys = (table.rows, table.index, table.last_id, _request_key(table, attempt), *_owner_key(table))
        arguments = (name, head, tail, attempt.fingerprint, table.partition, table.owner)
        return await self._outcome(scripts.ADD, keys, arguments)

    async def get(self, table: Table, name: str) -> Outcome:
        """Reads a record."""
        keys = (table.rows, table.index, *_owner_key(table))
        return await self._outcome(scripts.GET, keys, (name, table.owner))

    async def get_many(self, table: Table, names: Sequence[str]) -> "list[bytes | None]":
        """Reads records; None stands for one that is not there."""
        records: list[bytes | None] = await self._run(self._bulk, scripts.BATCH_GET, (table.rows, table.index), names)
        return records

    async def replace(self, table: Table, name: str, old: bytes, verdict: Outcome, attempt: Attempt) -> Outcome:
        """Concludes a change with ``verdict`` if ``old`` is still the record, else tells what is there instead."""
        keys = (table.rows, table.index, _request_key(table, attempt), *_owner_key(table))
        arguments = (name, old, verdict.encode(), attempt.fingerprint, table.owner)
        return await self._outcome(scripts.REPLACE, keys, arguments)

    async def delete(
        self, table: Table, name: str, old: bytes, verdict: Outcome, attempt: Attempt, owned: "Table | None" = None
    ) -> Outcome:
        """Removes a record, and the table ``owned`` by it, if ``old`` is empty or still the record."""
        owned_keys = (owned.rows, owned.index) if owned else ()
        keys = (table.rows, table.index, _request_key(table, attempt), *_owner_key(table), *owned_keys)
        arguments = (name, old, verdict.encode(), attempt.fingerprint, table.owner)
        return await self._outcome(scripts.DELETE, keys, arguments)

    def range(self, table: Table, after: int, count: int) -> "asyncio.Future[list[bytes]]":
        """Starts to read up to ``count`` records with ids above ``after``, in the order of their ids."""
        return self._bulk.send("ZRANGE", table.rows, f"({after}", "+inf", "BYSCORE", "LIMIT", 0, count)

    def newest(self, table: Table) -> "asyncio.Future[list[bytes]]":
        """Starts to read the newest record: a list of one, or of none."""
        return self._bulk.send("ZRANGE", table.rows, -1, -1)

    def size(self, table: Table) -> "asyncio.Future[int]":
        """Starts to count the records."""
        return self._bulk.send("ZCARD", table.rows)

    def has_owner(self, table: Table) -> "asyncio.Future[int]":
        """Starts to look whether the owner of the table exists: 1 or 0."""
        return self._bulk.send("HEXISTS", table.owner_index, table.owner)

    async def _outcome(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | str | int]) -> Outcome:
        reply = await self._run(self._calls, script, keys, arguments)
        try:
            return Outcome.parse(reply)
        except ValueError:
            self.distrust()
            raise

    async def _run(
        self,
        connection: SharedConnection,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[bytes | str | int],
    ) -> Any:
        try:
            return await connection.send("EVALSHA", script.sha1, len(keys), *keys, *arguments)
        except NoScriptError:  # Redis was restarted, failed over or flushed; the text is sent along, and is known again
            return await connection.send("EVAL", script.text, len(keys), *keys, *arguments)


def _request_key(table: Table, attempt: Attempt) -> bytes:
    return table.request_prefix + attempt.request_id.encode()


def _owner_key(table: Table) -> tuple[bytes, ...]:
    return (table.owner_index,) if table.owner else ()
