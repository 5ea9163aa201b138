"""Implements the RPCs of UserService, except the list of a user's sessions, without the transport."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TypeAlias

from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import BatchGetUsersResponse, CountUsersResponse, PlanUserScanResponse
from userservice.v1.view_pb2 import View
from userservice_server.domain.entities import Entities
from userservice_server.domain.finding import Search, found_page
from userservice_server.domain.listing import Page, Selection, count_matching, first_page, pages
from userservice_server.domain.merging import MergedTables, OneTable, Source
from userservice_server.domain.patch import Patch
from userservice_server.domain.ports import MOST_STORES, IdempotencyKey, RecordStore, StoreIdentity, Table
from userservice_server.domain.scanning import partition_numbers, planned
from userservice_server.domain.stream_memory import ReadLimit, StreamMemory
from userservice_server.errors import StoreChangedError, UserAlreadyExistsError, UserNotFoundError
from userservice_server.wire.projection import Cut, cut_of

Records: TypeAlias = list[bytes | None]  # of requested users; None for a user that does not exist
MUTABLE_FIELDS = ("email", "first_name", "last_name", "metadata")
_SCRIPT_KEYS = 200  # user_ids in one script; commands of other callers can run between two scripts
_MOST_EXAMINED = 100_000  # users in one count with a filter
_FILTER_STEP = 100  # users that a filter examines at once
_SMALL_BATCH = 100  # user_ids or addresses; larger batches wait for each other, because of the memory that they take


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
        self,
        limit: int,
        cursor: int,
        view: "View.ValueType" = View.VIEW_FULL,
        *,
        matching: Cut | None = None,
        descending: bool = False,
    ) -> bytes:
        """Returns one page of users as an encoded ListUsersResponse.

        Args:
            limit: maximum number of users.
            cursor: the page starts after this id.
            view: the fields to return.
            matching: selects the users (see filters.py); None: all users.
            descending: whether the newest users come first.
        """
        read = partial(self._page, limit, cursor, _selection(view, matching), descending=descending)
        return await (read() if cursor else self._store.reread(read))

    async def _page(self, limit: int, cursor: int, selection: Selection, *, descending: bool) -> bytes:
        read = partial(first_page, self._store, size=limit, cursor=cursor, reads=self._reads, selection=selection)
        page, next_cursor, _ = await read(self._source(fences=False, descending=descending))
        if next_cursor or descending or not self._is_partitioned:
            return page
        # Only the last page needs the fence, which takes longer than the page itself.
        page, *_ = await read(self._source(fences=True))
        return page

    @property
    def partitions(self) -> range:
        """The numbers by which callers name the partitions."""
        return partition_numbers(self._store)

    async def plan(self, parts: int) -> bytes:
        """Divides all users into parts; returns an encoded PlanUserScanResponse."""
        found = await self._store.reread(partial(planned, self._store, parts))
        return PlanUserScanResponse(parts=found).SerializeToString()

    def stream(
        self,
        chunk_size: int,
        cursor: int,
        view: "View.ValueType" = View.VIEW_FULL,
        matching: Cut | None = None,
        *,
        partition: int = 0,
        end_cursor: int = 0,
    ) -> AsyncGenerator[Iterator[Page]]:
        """Yields users as encoded ListUsersChunkedResponses, one range after the other, as ``pages`` does.

        Args:
            chunk_size: maximum number of users in a response.
            cursor: the stream starts after this id.
            view: the fields of the users.
            matching: selects the users (see filters.py); None: all users.
            partition: the number of the partition whose users are streamed; 0: all users.
            end_cursor: the stream ends at this id; 0: at the newest user.
        """
        read = partial(self._ranges, chunk_size, cursor, _selection(view, matching), partition, end_cursor)
        # An end_cursor belongs to one store, like a cursor.
        return read() if cursor or end_cursor else self._restarted(read)

    def _ranges(
        self, chunk_size: int, cursor: int, selection: Selection, partition: int, end_cursor: int
    ) -> AsyncGenerator[Iterator[Page]]:
        if partition:
            table = self._tables[self.partitions.index(partition)]
            source: Source = OneTable(self._store, table, end=end_cursor)
        else:
            source = self._source(fences=True, end=end_cursor)
        return pages(self._store, source, chunk_size, cursor, self._reads, self._memory, selection)

    async def count(self, matching: Cut | None, cursor: int) -> bytes:
        """Counts all users, or those that match; returns an encoded CountUsersResponse."""
        if matching is None:
            return CountUsersResponse(count=await self._store.reread(self._size)).SerializeToString()
        read = partial(self._count, matching, cursor)
        count, next_cursor = await (read() if cursor else self._store.reread(read))
        return CountUsersResponse(count=count).SerializeToString() + next_cursor

    async def _count(self, matching: Cut, cursor: int) -> tuple[int, bytes]:
        selection = _selection(View.VIEW_FULL, matching)
        # No fence: users that are added during the count need not be counted.
        source = self._source(fences=False)
        return await count_matching(self._store, source, cursor, self._reads, selection, _MOST_EXAMINED)

    async def _size(self) -> int:
        return await self._source(fences=False).size()

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

    async def find(self, emails: Sequence[str], limit: int, cursor: int, view: "View.ValueType") -> bytes:
        """Returns a page of the users with these e-mail addresses as an encoded FindUsersResponse."""
        search = partial(found_page, self._store, Search.of(emails, limit, cursor), cut_of(User, view))
        read = search if cursor else partial(self._store.reread, search)
        if len(emails) <= _SMALL_BATCH:
            return await read()
        async with self._reads.batches:
            return await read()

    async def _get_many(self, user_ids: Sequence[str], cut: Cut | None) -> bytes:
        identity = self._store.identity  # one store for all batches
        if self._is_partitioned:
            records = await self._read_partitions(user_ids, identity)
        else:
            records = await self._read(self._tables[0], user_ids, identity)
        present = [record for record in records if record is not None]
        found = present if cut is None else list(cut(present))
        if len(found) < len(records):
            missing = [user_id for user_id, record in zip(user_ids, records, strict=True) if record is None]
            found.append(BatchGetUsersResponse(missing_user_ids=missing).SerializeToString())
        return b"".join(found)

    async def _read_partitions(self, user_ids: Sequence[str], identity: StoreIdentity) -> Records:
        """Returns the records of users of several partitions, which are read at the same time."""
        groups = self._store.tables.by_partition(user_ids)
        reading = (self._read(table, [user_ids[place] for place in places], identity) for table, places in groups)
        records: Records = [None] * len(user_ids)
        for (_, places), read in zip(groups, await asyncio.gather(*reading), strict=True):
            for place, record in zip(places, read, strict=True):
                records[place] = record
        return records

    async def _read(self, table: Table, user_ids: Sequence[str], identity: StoreIdentity) -> Records:
        """Returns the records of users of one table; None for a user that does not exist."""
        found: Records = []
        for start in range(0, len(user_ids), _SCRIPT_KEYS):
            batch = user_ids[start : start + _SCRIPT_KEYS]
            records = await self._store.get_many(table, batch, identity)
            present = [record for record in records if record is not None]
            if len(present) < len(records):
                batch = [user_id for user_id, record in zip(batch, records, strict=True) if record is not None]
            self._users.check_keys(present, batch)
            found += records
        return found

    @property
    def _tables(self) -> Sequence[Table]:
        return self._store.tables.all_users()

    @property
    def _is_partitioned(self) -> bool:
        return len(self._tables) > 1

    def _source(self, *, fences: bool, descending: bool = False, end: int = 0) -> Source:
        """Returns the records of one list."""
        tables = self._tables
        if len(tables) == 1:
            return OneTable(self._store, tables[0], descending=descending, end=end)
        return MergedTables(self._store, tables, fences=fences, descending=descending, end=end)


def _selection(view: "View.ValueType", matching: Cut | None) -> Selection:
    """Returns the selection of a list of users."""
    cut = cut_of(User, view)
    if matching is None:
        return Selection(cut)
    return Selection(matching if cut is None else partial(_both, matching, cut), total_size=0, step=_FILTER_STEP)


def _both(matching: Cut, cut: Cut, records: Sequence[bytes]) -> list[bytes]:
    return cut(matching(records))
