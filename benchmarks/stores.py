"""Runs stores with the options of the embedded store, and fills them through pipelines."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uuid_utils
from hiredis import pack_command
from redis import Redis
from redis.exceptions import BusyLoadingError, ConnectionError  # noqa: A004 - as redis-py names it

from benchmarks.baseline import layout
from benchmarks.errors import BenchError
from benchmarks.population import user_id, users
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import AddUserRequest
from userservice_server.config import Config
from userservice_server.embedded.store import EmbeddedStore
from userservice_server.store import scripts
from userservice_server.store.keys import LAYOUT_VERSION, MAINTAINED_LAYOUT_VERSION, Keys
from userservice_server.wire.emails import UNICODE_VERSION, key_of_new
from userservice_server.wire.records import decode, key_field, record_id

_KEYS = Keys("userservice", 1)  # the default of the service
_TABLE = _KEYS.all_users()[0]
USERS_KEY = _TABLE.rows
_ENCODED_ORDER = "order"  # as in benchmarks/peers/encoded
_BATCH = 1000
_SETTLE_SECONDS = 600.0
_ANSWER_SECONDS = 600.0  # loading ten million users takes minutes


class Store:
    """A running store.

    Attributes:
        url: its URL, in the form of redis-py.
        redis: a connection to the store.
        pid: the id of its process.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # RESP2, so that replies have the same form as in the service.
        self.redis: Any = Redis.from_url(url, protocol=2)
        self._await_answer()
        self.pid = int(self.redis.info("server")["process_id"])
        self._empty_bytes = self._memory()
        self._order: bytes | str = USERS_KEY

    @property
    def path(self) -> str:
        """The path of its Unix socket."""
        return unquote(self.url.removeprefix("unix://"))

    def fill(self, count: int) -> None:
        """Adds users with the script of the service."""
        keys = (_KEYS.layout, _TABLE.store_id, _TABLE.rows, _TABLE.index, _TABLE.last_id, _TABLE.session_count)
        arguments = (LAYOUT_VERSION, 1, secrets.token_hex(16), "", MAINTAINED_LAYOUT_VERSION, UNICODE_VERSION)
        _, store_id, _ = self.redis.execute_command("EVAL", scripts.CREATE.text, len(keys), *keys, *arguments)
        self.redis.script_load(scripts.ADD.text)
        of_table = (_TABLE.rows, _TABLE.index, _TABLE.last_id, _TABLE.request_prefix, *_TABLE.email_index, _TABLE.feed)
        of_add = (_TABLE.store_id, _TABLE.layout, *of_table)
        head = ("EVALSHA", scripts.ADD.sha1, len(of_add), *of_add, store_id)
        for start in range(0, count, _BATCH):
            commands: list[tuple[Any, ...]] = []
            for user in users(min(_BATCH, count - start), start):
                tail = _new_user(user)
                more = (b"", _TABLE.partition, "", "", 0, key_of_new(tail) or "")
                commands.append((*head, user.user_id, key_field(user.user_id), tail, *more))
            self._pipe(commands)
        self._settle()

    def fill_baseline(self, count: int) -> None:
        """Adds the same users in the layout of the baseline and of the plain Go server."""
        self._order = layout.USERS
        for start in range(0, count, _BATCH):
            commands: list[tuple[Any, ...]] = []
            for number, user in enumerate(users(min(_BATCH, count - start), start), start + 1):
                fields = layout.new_hash(user, number)
                commands.append(("HSET", layout.key(user.user_id), *(item for pair in fields.items() for item in pair)))
                commands.append(("ZADD", layout.USERS, number, user.user_id))
            self._pipe(commands)
        self.redis.set(layout.LAST_ID, count)
        self._settle()

    def fill_encoded(self, records: list[bytes]) -> None:
        """Adds users in the layout of the encoded Go server, from the records of a store that ``fill`` filled."""
        self._order = _ENCODED_ORDER
        for start in range(0, len(records), _BATCH):
            commands: list[tuple[Any, ...]] = []
            for number, record in enumerate(records[start : start + _BATCH], start):
                commands.append(("HSET", "records", user_id(number), record))
                commands.append(("ZADD", _ENCODED_ORDER, record_id(record), user_id(number)))
            self._pipe(commands)
        self.redis.set("last_id", record_id(records[-1]))
        self._settle()

    def count(self) -> int:
        """Returns the number of users."""
        return int(self.redis.zcard(self._order))

    def rewrite(self) -> None:
        """Starts to rewrite the append-only file."""
        self.redis.bgrewriteaof()

    def settle(self) -> None:
        """Waits until the store does not rewrite its append-only file. A rewrite would affect measurements."""
        self._settle()

    def records(self) -> list[bytes]:
        """Returns all stored records."""
        found: list[bytes] = self.redis.zrange(USERS_KEY, 0, -1)
        return found

    def encoded_bytes(self) -> int:
        """Returns the size of all encoded users without framing, in a store that ``fill`` filled."""
        return sum(decode(User, record).ByteSize() for record in self.records())

    def memory_of_emails(self) -> int:
        """Returns the bytes of memory of the e-mail index."""
        return sum(int(self.redis.memory_usage(key, samples=0) or 0) for key in _TABLE.email_index)

    def memory_taken(self) -> int:
        """Returns the bytes of memory that the users take in the store."""
        return self._memory() - self._empty_bytes

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

    def _await_answer(self) -> None:
        started = time.monotonic()
        while True:
            try:
                self.redis.ping()
            except (BusyLoadingError, ConnectionError):  # it is loading, or its socket exists but does not listen yet
                if time.monotonic() > started + _ANSWER_SECONDS:
                    raise BenchError(f"the store did not answer within {_ANSWER_SECONDS:g} s") from None
                time.sleep(0.01)
            else:
                return

    def _settle(self) -> None:
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
