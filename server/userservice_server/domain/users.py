"""Implements the RPCs of UserService, except the list of a user's sessions, without the transport."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial

from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import BatchGetUsersResponse
from userservice.v1.view_pb2 import View
from userservice_server.domain.entities import Entities
from userservice_server.domain.listing import Page, first_page, pages
from userservice_server.domain.patch import Patch
from userservice_server.domain.ports import MOST_STORES, IdempotencyKey, RecordStore, Table
from userservice_server.domain.stream_memory import ReadLimit, StreamMemory
from userservice_server.errors import StoreChangedError, UserAlreadyExistsError, UserNotFoundError
from userservice_server.wire.projection import Cut, cut_of

MUTABLE_FIELDS = ("email", "first_name", "last_name", "metadata")
_SCRIPT_KEYS = 200  # user_ids in one script; commands of other callers can run between two scripts
_SMALL_BATCH = 100  # user_ids; larger batches wait for each other, because of the memory that they take


class Users:
    """Users in a store. Returned bytes are encoded responses. The caller has checked all arguments."""

    def __init__(self, store: RecordStore, reads: ReadLimit) -> None:
        self._store = store
        self._reads = reads
        self._memory = StreamMemory()
        self._users = Entities(store, User, UserNotFoundError, UserAlreadyExistsError)

    async def add(self, user_id: str, user: User, idempotency_key: IdempotencyKey) -> bytes:
        """Adds ``user``, whose user_id is still empty, under ``user_id``; returns the record."""
        return await self._users.add(self._store.tables.users(user_id), user_id, user, idempotency_key)

    async def get(self, user_id: str, view: "View.ValueType") -> bytes:
        """Returns a view of the record of a user."""
        return await self._users.get(self._store.tables.users(user_id), user_id, view)

    async def update(
        self,
        user_id: str,
        patch: Patch[User],
        etag: str,
        idempotency_key: IdempotencyKey,
        *,
        allow_missing: bool = False,
    ) -> bytes:
        """Changes a user if its etag is ``etag`` or ``etag`` is empty; returns its record.

        If ``allow_missing`` and there is neither a user nor an etag, adds the user.
        """
        table = self._store.tables.users(user_id)
        return await self._users.update(table, user_id, etag, patch, idempotency_key, allow_missing=allow_missing)

    async def delete(self, user_id: str, etag: str, idempotency_key: IdempotencyKey) -> None:
        """Removes a user with all its sessions."""
        tables = self._store.tables
        table, owned = tables.users(user_id), tables.sessions(user_id)
        await self._users.delete(table, user_id, etag, idempotency_key, owned=owned)

    async def list(
        self, limit: int, cursor: int, view: "View.ValueType" = View.VIEW_FULL, *, descending: bool = False
    ) -> bytes:
        """Returns one page of users as an encoded ListUsersResponse; if ``descending``, the newest users first."""
        cut = cut_of(User, view)
        read = partial(first_page, self._store, self._table(), limit, cursor, self._reads, cut, descending=descending)
        return await (read() if cursor else self._store.reread(read))

    def stream(
        self, chunk_size: int, cursor: int, view: "View.ValueType" = View.VIEW_FULL
    ) -> AsyncGenerator[Iterator[Page]]:
        """Yields all users as encoded ListUsersChunkedResponses, one range after the other, as ``pages`` does."""
        cut = cut_of(User, view)
        read = partial(pages, self._store, self._table(), chunk_size, cursor, self._reads, self._memory, cut)
        return read() if cursor else self._restarted(read)

    async def _restarted(self, read: Callable[[], AsyncGenerator[Iterator[Page]]]) -> AsyncGenerator[Iterator[Page]]:
        """Yields the same as ``read``; starts again if the store changes before anything was yielded."""
        is_begun = False
        for _ in range(MOST_STORES):
            identity = self._store.identity
            try:
                async with aclosing(read()) as ranges:
                    async for found in ranges:
                        is_begun = True
                        yield found
            except StoreChangedError:
                if is_begun:
                    raise
                await self._store.look_again(identity)
            else:
                return
        raise StoreChangedError.during_read()

    async def get_many(self, user_ids: Sequence[str], view: "View.ValueType") -> bytes:
        """Returns the users with these user_ids as an encoded BatchGetUsersResponse."""
        read = partial(self._store.reread, partial(self._get_many, user_ids, cut_of(User, view)))
        if len(user_ids) <= _SMALL_BATCH:
            return await read()
        async with self._reads.batches:
            return await read()

    async def _get_many(self, user_ids: Sequence[str], cut: Cut | None) -> bytes:
        table, identity = self._table(), self._store.identity  # one store for all batches
        found: list[bytes] = []
        missing: list[str] = []
        for start in range(0, len(user_ids), _SCRIPT_KEYS):
            batch = user_ids[start : start + _SCRIPT_KEYS]
            records = await self._store.get_many(table, batch, identity)
            present = [record for record in records if record is not None]
            if len(present) < len(records):
                missing += [user_id for user_id, record in zip(batch, records, strict=True) if record is None]
                batch = [user_id for user_id, record in zip(batch, records, strict=True) if record is not None]
            self._users.check_keys(present, batch)
            found += present if cut is None else cut(present)
        if missing:
            found.append(BatchGetUsersResponse(missing_user_ids=missing).SerializeToString())
        return b"".join(found)

    def _table(self) -> Table:
        # A store with several partitions, as on a cluster, needs a merge of their tables by id here.
        (table,) = self._store.tables.all_users()
        return table
