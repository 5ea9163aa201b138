"""Implements the RPCs of SessionService, and the list of a user's sessions, without the transport."""

from collections.abc import Sequence
from functools import partial

from userservice.v1.session_pb2 import Session
from userservice.v1.user_service_pb2 import GetUserSessionsResponse
from userservice.v1.view_pb2 import View
from userservice_server.domain.entities import Entities
from userservice_server.domain.expiry import ENDLESS, Expiry, touch
from userservice_server.domain.listing import Selection, first_page
from userservice_server.domain.merging import OneTable
from userservice_server.domain.patch import Patch
from userservice_server.domain.ports import IdempotencyKey, RecordStore
from userservice_server.domain.stream_memory import ReadLimit
from userservice_server.errors import SessionAlreadyExistsError, SessionNotFoundError, UserNotFoundError
from userservice_server.wire.projection import Cut, cut_of
from userservice_server.wire.records import CorruptRecordError, record_id

MUTABLE_FIELDS = ("metadata",)


class Sessions:
    """Sessions in a store. Returned bytes are encoded responses. The caller has checked all arguments."""

    def __init__(self, store: RecordStore, reads: ReadLimit) -> None:
        self._store = store
        self._reads = reads
        self._sessions = Entities(store, Session, SessionNotFoundError, SessionAlreadyExistsError)

    async def add(
        self, session_id: str, session: Session, idempotency_key: IdempotencyKey, expiry: Expiry = ENDLESS
    ) -> bytes:
        """Adds ``session``, whose session_id is still empty, to the user ``session.user_id``; returns the record."""
        table = self._store.tables.sessions(session.user_id)
        ends_at = expiry.start(session, await self._store.now(table)) if expiry.is_set else None
        return await self._sessions.add(table, session_id, session, idempotency_key, ends_at=ends_at)

    async def get(self, user_id: str, session_id: str, view: "View.ValueType") -> bytes:
        """Returns a view of the record of a session."""
        return await self._sessions.get(self._store.tables.sessions(user_id), session_id, view)

    async def update(
        self, user_id: str, session_id: str, patch: Patch[Session], etag: str, idempotency_key: IdempotencyKey
    ) -> bytes:
        """Changes a session if its etag is ``etag`` or ``etag`` is empty; returns its record."""
        return await self._sessions.update(
            self._store.tables.sessions(user_id), session_id, etag, patch, idempotency_key
        )

    async def delete(self, user_id: str, session_id: str, etag: str, idempotency_key: IdempotencyKey) -> None:
        """Removes a session."""
        await self._sessions.delete(self._store.tables.sessions(user_id), session_id, etag, idempotency_key)

    async def touch(self, user_id: str, session_id: str, idempotency_key: IdempotencyKey) -> bytes:
        """Extends a session that is in use; returns its record."""
        table = self._store.tables.sessions(user_id)
        now = await self._store.now(table)
        return await self._sessions.refresh(table, session_id, partial(touch, now=now), idempotency_key)

    async def revoke(self, user_id: str, kept: str, idempotency_key: IdempotencyKey) -> bytes:
        """Removes all sessions of a user, except one; returns an encoded RevokeUserSessionsResponse."""
        outcome = await self._store.revoke(self._store.tables.sessions(user_id), kept, idempotency_key)
        self._sessions.check(outcome)
        return outcome.payload

    async def list(
        self,
        user_id: str,
        limit: int,
        cursor: int,
        view: "View.ValueType" = View.VIEW_FULL,
        *,
        include_expired: bool = False,
    ) -> bytes:
        """Returns one page of the sessions of a user as an encoded GetUserSessionsResponse."""
        read = partial(self._page, user_id, limit, cursor, view, include_expired=include_expired)
        return await (read() if cursor else self._store.reread(read))

    async def _page(
        self, user_id: str, limit: int, cursor: int, view: "View.ValueType", *, include_expired: bool
    ) -> bytes:
        table = self._store.tables.sessions(user_id)
        cut = cut_of(Session, view)
        selection = Selection(cut)
        if not include_expired:
            ended, total_size = await self._store.ended(table)
            selection = Selection(partial(_without, ended, cut) if ended else cut, total_size)
        owner = self._store.has_owner(table)
        try:
            source = OneTable(self._store, table)
            page, *_ = await first_page(self._store, source, limit, cursor, self._reads, selection)
            owner_exists = await owner
        finally:
            del owner  # breaks a cycle: a failed future keeps its exception, which keeps this frame
        if not owner_exists:
            raise UserNotFoundError("the user does not exist")
        self._check_owner(page, user_id)
        return page

    def _check_owner(self, page: bytes, user_id: str) -> None:
        """Checks a page as Entities.check_key checks a record."""
        if any(session.user_id != user_id for session in GetUserSessionsResponse.FromString(page).sessions):
            self._store.distrust()
            raise CorruptRecordError("the store returned sessions of another user")


def _without(ended: frozenset[int], cut: Cut | None, records: Sequence[bytes]) -> list[bytes]:
    """Returns the views of the records whose ids are not in ``ended``."""
    left = [record for record in records if record_id(record) not in ended]
    return left if cut is None else cut(left)
