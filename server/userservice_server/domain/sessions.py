"""Implements the RPCs of SessionService, and the list of a user's sessions, without the transport."""

from functools import partial

from userservice.v1.session_pb2 import Session
from userservice.v1.user_service_pb2 import GetUserSessionsResponse
from userservice.v1.view_pb2 import View
from userservice_server.domain.entities import Entities
from userservice_server.domain.listing import first_page
from userservice_server.domain.merging import OneTable
from userservice_server.domain.patch import Patch
from userservice_server.domain.ports import IdempotencyKey, RecordStore
from userservice_server.domain.stream_memory import ReadLimit
from userservice_server.errors import SessionAlreadyExistsError, SessionNotFoundError, UserNotFoundError
from userservice_server.wire.projection import cut_of
from userservice_server.wire.records import CorruptRecordError

MUTABLE_FIELDS = ("metadata",)


class Sessions:
    """Sessions in a store. Returned bytes are encoded responses. The caller has checked all arguments."""

    def __init__(self, store: RecordStore, reads: ReadLimit) -> None:
        self._store = store
        self._reads = reads
        self._sessions = Entities(store, Session, SessionNotFoundError, SessionAlreadyExistsError)

    async def add(self, session_id: str, session: Session, idempotency_key: IdempotencyKey) -> bytes:
        """Adds ``session``, whose session_id is still empty, to the user ``session.user_id``; returns the record."""
        return await self._sessions.add(
            self._store.tables.sessions(session.user_id), session_id, session, idempotency_key
        )

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

    async def list(self, user_id: str, limit: int, cursor: int, view: "View.ValueType" = View.VIEW_FULL) -> bytes:
        """Returns one page of the sessions of a user as an encoded GetUserSessionsResponse."""
        read = partial(self._page, user_id, limit, cursor, view)
        return await (read() if cursor else self._store.reread(read))

    async def _page(self, user_id: str, limit: int, cursor: int, view: "View.ValueType") -> bytes:
        table = self._store.tables.sessions(user_id)
        owner = self._store.has_owner(table)
        try:
            source = OneTable(self._store, table)
            page, *_ = await first_page(self._store, source, limit, cursor, self._reads, cut_of(Session, view))
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
