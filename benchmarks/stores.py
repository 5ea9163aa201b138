"""Runs stores with the options of the embedded store, and fills them through pipelines."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uuid_utils
from hiredis import pack_command
from redis import Redis

from benchmarks.baseline import layout
from benchmarks.errors import BenchError
from benchmarks.population import users
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import AddUserRequest
from userservice_server.config import Config
from userservice_server.embedded.store import EmbeddedStore
from userservice_server.store import scripts
from userservice_server.store.keys import LAYOUT_VERSION, Keys
from userservice_server.wire.records import decode, key_field

_KEYS = Keys("userservice", 1)  # the default of the service
_TABLE = _KEYS.all_users()[0]
USERS_KEY = _TABLE.rows
_BATCH = 1000
_SETTLE_SECONDS = 120.0


class Store:
    """A running store."""

    def __init__(self, url: str) -> None:
        self.url = url
        # RESP2, so that replies have the same form as in the service.
        self.redis: Any = Redis.from_url(url, protocol=2)
        self._empty_bytes = self._memory()

    def fill(self, count: int) -> None:
        """Adds users with the script of the service."""
        keys = (_KEYS.layout, _TABLE.store_id, _TABLE.rows, _TABLE.index, _TABLE.last_id)
        arguments = (LAYOUT_VERSION, 1, secrets.token_hex(16), "")
        _, store_id, _ = self.redis.execute_command("EVAL", scripts.CREATE.text, len(keys), *keys, *arguments)
        self.redis.script_load(scripts.ADD.text)
        of_add = (_TABLE.store_id, _TABLE.layout, _TABLE.rows, _TABLE.index, _TABLE.last_id, _TABLE.request_prefix)
        head = ("EVALSHA", scripts.ADD.sha1, len(of_add), *of_add, store_id)
        for start in range(0, count, _BATCH):
            self._pipe(
                [
                    (*head, user.user_id, key_field(user.user_id), _new_user(user), b"", _TABLE.partition, "")
                    for user in users(min(_BATCH, count - start), start)
                ]
            )
        self._settle()

    def fill_baseline(self, count: int) -> None:
        """Adds the same users in the layout of the baseline."""
        for start in range(0, count, _BATCH):
            commands: list[tuple[Any, ...]] = []
            for number, user in enumerate(users(min(_BATCH, count - start), start), start + 1):
                fields = layout.new_hash(user, number)
                commands.append(("HSET", layout.key(user.user_id), *(item for pair in fields.items() for item in pair)))
                commands.append(("ZADD", layout.USERS, number, user.user_id))
            self._pipe(commands)
        self.redis.set(layout.LAST_ID, count)
        self._settle()

    def count(self, key: bytes | str) -> int:
        """Returns the number of members of a sorted set."""
        return int(self.redis.zcard(key))

    def records(self) -> list[bytes]:
        """Returns all stored records."""
        found: list[bytes] = self.redis.zrange(USERS_KEY, 0, -1)
        return found

    def memory_per_payload(self) -> float:
        """Returns the ratio of the memory of the users in the store to their encoded size."""
        payload = sum(decode(User, record).ByteSize() for record in self.records())
        return (self._memory() - self._empty_bytes) / payload

    def _memory(self) -> int:
        return int(self.redis.info("memory")["used_memory"])

    def _pipe(self, commands: list[tuple[Any, ...]]) -> None:
        connection = self.redis.connection_pool.get_connection()
        try:
            connection.send_packed_command([b"".join(map(pack_command, commands))])
            for _ in commands:
                connection.read_response(disable_decoding=True)  # raises error replies
        finally:
            self.redis.connection_pool.release(connection)

    def _settle(self) -> None:
        """Waits until the store has rewritten its append-only file, because the rewrite would affect measurements."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            info = self.redis.info("persistence")
            if not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]:
                return
            if time.monotonic() > deadline:
                raise BenchError("the store did not finish the rewrite of its append-only file in time")
            time.sleep(0.1)


def _new_user(request: AddUserRequest) -> bytes:
    user = User(email=request.email, first_name=request.first_name, last_name=request.last_name)
    user.metadata.CopyFrom(request.metadata)
    user.uuid = str(uuid_utils.uuid7())
    user.created_at.FromMicroseconds(time.time_ns() // 1000)
    user.updated_at.CopyFrom(user.created_at)
    user.etag = secrets.token_urlsafe(9)
    return user.SerializeToString()


@contextmanager
def running(folder: Path) -> Iterator[Store]:
    """Runs a store with its files in ``folder`` for the duration of the block."""
    with EmbeddedStore(folder, Config().store.fsync) as embedded:
        store = Store(embedded.url)
        try:
            yield store
        finally:
            store.redis.close()
