"""Adds, reads, changes and deletes records, which are users or sessions.

The key of a record is its user_id or session_id.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NoReturn

import uuid_utils
from google.protobuf.timestamp_pb2 import Timestamp

from userservice.v1.session_pb2 import Session
from userservice.v1.user_pb2 import User
from userservice.v1.view_pb2 import View
from userservice_server.domain.patch import Patch
from userservice_server.domain.ports import IdempotencyKey, RecordStore, Table
from userservice_server.domain.turns import Turns
from userservice_server.domain.violations import bad_request, decode_violations
from userservice_server.errors import (
    EtagMismatchError,
    InvalidFieldsError,
    RequestIdReusedError,
    ServiceError,
    SessionLimitError,
    UpdateConflictError,
    UserNotFoundError,
    Violation,
)
from userservice_server.wire.expiry import MOST_SESSIONS
from userservice_server.wire.outcomes import Code, Outcome
from userservice_server.wire.projection import cut_of
from userservice_server.wire.records import (
    CorruptRecordError,
    Entity,
    decode,
    frame,
    has_key,
    have_keys,
    key_field,
)

# Rounds of change and compare-and-set before a writer fails. In every round, a writer of another process succeeded:
# the writers of one process take turns (turns.py), and every few turns a process lets other processes write first.
MAX_ROUNDS = 256


@dataclass(frozen=True)
class Entities(Generic[Entity]):
    """Reads and writes records of one kind."""

    store: RecordStore
    entity: type[Entity]
    not_found: type[ServiceError]
    already_exists: type[ServiceError]
    turns: Turns = field(default_factory=Turns)

    async def add(
        self, table: Table, key: str, new: Entity, idempotency_key: IdempotencyKey, *, ends_at: int | None = None
    ) -> bytes:
        """Adds ``new``, whose key and id are still empty, under ``key``; returns the record. Changes ``new``.

        If ``ends_at`` is given, the record expires at this time.
        """
        stamp_new(new)
        head, tail = key_field(key), new.SerializeToString()
        outcome = await self.store.add(table, key, head, tail, idempotency_key, ends_at=ends_at)
        return self._record(table, key, outcome)

    async def get(self, table: Table, key: str, view: "View.ValueType" = View.VIEW_FULL) -> bytes:
        """Returns a view of the record with this key."""
        record = self._record(table, key, await self.store.get(table, key))
        cut = cut_of(self.entity, view)
        return record if cut is None else cut((record,))[0]

    async def update(
        self,
        table: Table,
        key: str,
        etag: str,
        patch: Patch[Entity],
        idempotency_key: IdempotencyKey,
        *,
        allow_missing: bool = False,
    ) -> bytes:
        """Applies ``patch`` to the entity with this key; returns the new record.

        If ``allow_missing``, an entity that does not exist is added, unless an etag is expected.
        """
        place, record = (table, key), b""
        known = await self.turns.take(place)
        try:
            adds = allow_missing and not etag
            record = await self._update(table, key, etag, patch, idempotency_key, known, adds=adds)
        finally:
            self.turns.pass_on(place, record)
        return record

    async def _update(
        self,
        table: Table,
        key: str,
        etag: str,
        patch: Patch[Entity],
        idempotency_key: IdempotencyKey,
        known: bytes,
        *,
        adds: bool,
    ) -> bytes:
        # The known record may be out of date; the compare-and-set then fails and returns the current record.
        current = Outcome(Code.DONE, known)
        for _ in range(MAX_ROUNDS):
            if not current.payload:
                current = await self.store.get(table, key)
            if adds and current.code is Code.NOT_FOUND:
                outcome = await self._add_missing(table, key, patch, idempotency_key)
            else:
                verdict = self._changed(table, key, current, etag, patch)
                outcome = await self.store.replace(table, key, current.payload, verdict, idempotency_key)
            if outcome.code is not Code.CONFLICT:
                return self._record(table, key, outcome)
            current = Outcome(Code.DONE, outcome.payload)
        raise conflict()

    async def _add_missing(
        self, table: Table, key: str, patch: Patch[Entity], idempotency_key: IdempotencyKey
    ) -> Outcome:
        """Adds the entity of an update; returns CONFLICT if the entity was added meanwhile."""
        new = patch.added()
        stamp_new(new)
        encoded = new.SerializeToString()
        return await self.store.add(table, key, key_field(key), encoded, idempotency_key, is_update=True)

    async def refresh(
        self, table: Table, key: str, change: Callable[[Entity], int | None], idempotency_key: IdempotencyKey
    ) -> bytes:
        """Changes the entity with this key without a new etag; returns the record.

        Args:
            table: the table.
            key: the key of the record.
            change: changes the entity, and returns the time at which it expires (0: never), or None to write nothing.
            idempotency_key: the idempotency key of the write, if there is one.
        """
        current = await self.store.get(table, key)
        for _ in range(MAX_ROUNDS):
            record = self._record(table, key, current)
            entity = decode(self.entity, record)
            end = change(entity)
            if end is None:
                return record
            verdict = Outcome(Code.DONE, frame(entity))
            outcome = await self.store.replace(
                table, key, record, verdict, idempotency_key, ends_at=end or None, is_reported=False
            )
            if outcome.code is not Code.CONFLICT:
                return self._record(table, key, outcome)
            current = Outcome(Code.DONE, outcome.payload) if outcome.payload else await self.store.get(table, key)
        raise conflict()

    async def delete(
        self, table: Table, key: str, etag: str, idempotency_key: IdempotencyKey, owned: Table | None = None
    ) -> None:
        """Removes the record with this key, and the table that the record owns."""
        if not etag:
            self.check(await self.store.delete(table, key, b"", Outcome(Code.DONE), idempotency_key, owned))
            return
        place = (table, key)
        await self.turns.take(place)
        try:
            await self._delete(table, key, etag, idempotency_key, owned)
        finally:
            self.turns.pass_on(place, b"")

    async def _delete(
        self, table: Table, key: str, etag: str, idempotency_key: IdempotencyKey, owned: Table | None
    ) -> None:
        for _ in range(MAX_ROUNDS):
            current = await self.store.get(table, key)
            verdict = Outcome(Code.DONE)
            if current.code is not Code.DONE:
                verdict = current
            elif decode(self.entity, current.payload).etag != etag:
                verdict = Outcome(Code.ETAG_MISMATCH)
            outcome = await self.store.delete(table, key, current.payload, verdict, idempotency_key, owned)
            if outcome.code is not Code.CONFLICT:
                self.check(outcome)
                return
        raise conflict()

    def _changed(self, table: Table, key: str, current: Outcome, etag: str, patch: Patch[Entity]) -> Outcome:
        """Returns the outcome of applying ``patch`` to the current record."""
        if current.code is not Code.DONE:
            return current
        self.check_key(current.payload, table, key)
        entity = decode(self.entity, current.payload)
        if etag and etag != entity.etag:
            return Outcome(Code.ETAG_MISMATCH)
        violations = patch.apply(entity)
        if violations:
            return Outcome(Code.REFUSED, bad_request(violations).SerializeToString())
        renew(entity)
        return Outcome(Code.DONE, frame(entity))

    def _record(self, table: Table, key: str, outcome: Outcome) -> bytes:
        self.check(outcome)
        self.check_key(outcome.payload, table, key)
        return outcome.payload

    def check_key(self, record: bytes, table: Table, key: str) -> None:
        """Raises CorruptRecordError if the record has another key or another owner.

        Every read by key is checked, so that no fault of connection or store can return another user's record.
        """
        if not has_key(record, key, table.owner):
            self._distrust()

    def check_keys(self, records: Sequence[bytes], keys: Sequence[str]) -> None:
        """Does the same as ``check_key`` for the records of a table without an owner."""
        if not have_keys(records, keys):
            self._distrust()

    def _distrust(self) -> NoReturn:
        self.store.distrust()
        raise CorruptRecordError("the store returned a record with another key")

    def check(self, outcome: Outcome) -> None:
        """Raises the error for an outcome other than DONE."""
        if outcome.code is Code.DONE:
            return
        if outcome.code is Code.REFUSED:
            raise InvalidFieldsError(decode_violations(outcome.payload))
        if outcome.code is Code.TIME_PASSED:
            raise InvalidFieldsError([Violation("expire_time", "must be in the future, by the store's clock")])
        raise self._failure(outcome.code)

    def _failure(self, code: Code) -> ServiceError:
        """Returns the error for an outcome without further details."""
        match code:
            case Code.EXISTS:
                return self.already_exists(f"{self._noun()} already exists")
            case Code.NOT_FOUND:
                return self.not_found(f"{self._noun()} does not exist")
            case Code.OWNER_NOT_FOUND:
                return UserNotFoundError("the user does not exist")
            case Code.ETAG_MISMATCH:
                return EtagMismatchError("the etag is not the current one; nothing was changed")
            case Code.REQUEST_ID_REUSED:
                return RequestIdReusedError("the request_id was used for another request; nothing was changed")
            case Code.SESSION_LIMIT:
                return SessionLimitError(f"the user has {MOST_SESSIONS} sessions, the maximum; nothing was added")
        raise AssertionError("the callers retry conflicts, and the store raises errors for the others")

    def _noun(self) -> str:
        return f"the {self.entity.DESCRIPTOR.name.lower()}"


def renew(entity: User | Session) -> None:
    """Gives a changed entity a new etag, and the present time as its updated_at."""
    now = present_time()
    if now.ToMicroseconds() > entity.updated_at.ToMicroseconds():  # clocks differ between servers, and step
        entity.updated_at.CopyFrom(now)
    entity.etag = _new_etag()


def conflict() -> UpdateConflictError:
    """Returns the error for a write that lost too many races."""
    return UpdateConflictError("too many concurrent writes; nothing was changed, retry")


def stamp_new(new: Entity) -> None:
    """Sets the fields that the server generates for a new entity, except its id."""
    now = present_time()
    new.uuid = str(uuid_utils.uuid7())
    new.created_at.CopyFrom(now)
    new.updated_at.CopyFrom(now)
    new.etag = _new_etag()


def present_time() -> Timestamp:
    """Returns the present time."""
    # Microseconds are the resolution of the clients' datetime: a time that is read back equals the time that was sent.
    now = Timestamp()
    now.FromMicroseconds(time.time_ns() // 1000)
    return now


def _new_etag() -> str:
    return secrets.token_urlsafe(9)
