"""What users and sessions have in common: how a record is added, read, changed and deleted by name."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Generic

import uuid_utils
from google.protobuf.timestamp_pb2 import Timestamp

from userservice_server.domain.patch import Patch
from userservice_server.domain.ports import IdempotencyKey, RecordStore, Table
from userservice_server.domain.turns import Turns
from userservice_server.errors import (
    EtagMismatchError,
    InvalidFieldsError,
    RequestIdReusedError,
    ServiceError,
    UpdateConflictError,
    UserNotFoundError,
    Violation,
)
from userservice_server.wire.outcomes import Code, Outcome
from userservice_server.wire.records import (
    CorruptRecordError,
    Entity,
    decode,
    frame,
    is_named,
    name_field,
)

# Rounds of change and compare-and-set before a writer gives up. In every round a writer of another process succeeded:
# those of one process take turns (turns.py), and each process lets others in every few turns.
MAX_ROUNDS = 256


@dataclass(frozen=True)
class Entities(Generic[Entity]):
    """Reads and writes records of one kind."""

    store: RecordStore
    entity: type[Entity]
    not_found: type[ServiceError]
    already_exists: type[ServiceError]
    turns: Turns = field(default_factory=Turns)

    async def add(self, table: Table, name: str, new: Entity, idempotency_key: IdempotencyKey) -> bytes:
        """Stores ``new``, which has neither name nor id yet, under ``name``; returns the record."""
        now = _now()
        new.uuid = str(uuid_utils.uuid7())
        new.created_at.CopyFrom(now)
        new.updated_at.CopyFrom(now)
        new.etag = _new_etag()
        outcome = await self.store.add(table, name, name_field(name), new.SerializeToString(), idempotency_key)
        return self._record(table, name, outcome)

    async def get(self, table: Table, name: str) -> bytes:
        """Returns the record of that name."""
        return self._record(table, name, await self.store.get(table, name))

    async def update(
        self, table: Table, name: str, etag: str, patch: Patch[Entity], idempotency_key: IdempotencyKey
    ) -> bytes:
        """Applies ``patch`` to the entity of that name; returns the record that results."""
        key, record = (table, name), b""
        known = await self.turns.take(key)
        try:
            record = await self._update(table, name, etag, patch, idempotency_key, known)
        finally:
            self.turns.pass_on(key, record)
        return record

    async def _update(
        self, table: Table, name: str, etag: str, patch: Patch[Entity], idempotency_key: IdempotencyKey, known: bytes
    ) -> bytes:
        # What is known may be out of date; then the compare-and-set fails, and brings the current record.
        current = Outcome(Code.DONE, known)
        for _ in range(MAX_ROUNDS):
            if not current.payload:
                current = await self.store.get(table, name)
            verdict = self._changed(table, name, current, etag, patch)
            outcome = await self.store.replace(table, name, current.payload, verdict, idempotency_key)
            if outcome.code is not Code.CONFLICT:
                return self._record(table, name, outcome)
            current = Outcome(Code.DONE, outcome.payload)
        raise _conflict()

    async def delete(
        self, table: Table, name: str, etag: str, idempotency_key: IdempotencyKey, owned: Table | None = None
    ) -> None:
        """Removes the record of that name, and the table that it owns."""
        if not etag:
            self._check(await self.store.delete(table, name, b"", Outcome(Code.DONE), idempotency_key, owned))
            return
        key = (table, name)
        await self.turns.take(key)
        try:
            await self._delete(table, name, etag, idempotency_key, owned)
        finally:
            self.turns.pass_on(key, b"")

    async def _delete(
        self, table: Table, name: str, etag: str, idempotency_key: IdempotencyKey, owned: Table | None
    ) -> None:
        for _ in range(MAX_ROUNDS):
            current = await self.store.get(table, name)
            verdict = Outcome(Code.DONE)
            if current.code is not Code.DONE:
                verdict = current
            elif decode(self.entity, current.payload).etag != etag:
                verdict = Outcome(Code.ETAG_MISMATCH)
            outcome = await self.store.delete(table, name, current.payload, verdict, idempotency_key, owned)
            if outcome.code is not Code.CONFLICT:
                self._check(outcome)
                return
        raise _conflict()

    def _changed(self, table: Table, name: str, current: Outcome, etag: str, patch: Patch[Entity]) -> Outcome:
        """What is to become of the current record."""
        if current.code is not Code.DONE:
            return current
        self.check_name(current.payload, table, name)
        entity = decode(self.entity, current.payload)
        if etag and etag != entity.etag:
            return Outcome(Code.ETAG_MISMATCH)
        violations = patch.apply(entity)
        if violations:
            return Outcome(Code.REFUSED, _encode_violations(violations))
        now = _now()
        if now.ToMicroseconds() > entity.updated_at.ToMicroseconds():  # clocks differ between servers, and step
            entity.updated_at.CopyFrom(now)
        entity.etag = _new_etag()
        return Outcome(Code.DONE, frame(entity))

    def _record(self, table: Table, name: str, outcome: Outcome) -> bytes:
        self._check(outcome)
        self.check_name(outcome.payload, table, name)
        return outcome.payload

    def check_name(self, record: bytes, table: Table, name: str) -> None:
        """Raises CorruptRecordError unless the record is the one of that name and of the table's owner.

        Held on every read by name: whatever happens to connection or store, nobody gets somebody else's record.
        """
        if not is_named(record, name, table.owner):
            self.store.distrust()
            raise CorruptRecordError("the store answered with a record of another name")

    def _check(self, outcome: Outcome) -> None:
        """Raises the error that an outcome stands for."""
        match outcome.code:
            case Code.DONE:
                return
            case Code.EXISTS:
                raise self.already_exists(f"{self._noun()} exists already")
            case Code.NOT_FOUND:
                raise self.not_found(f"{self._noun()} does not exist")
            case Code.OWNER_NOT_FOUND:
                raise UserNotFoundError("the user does not exist")
            case Code.ETAG_MISMATCH:
                raise EtagMismatchError("the etag is not the current one; nothing was changed")
            case Code.REFUSED:
                raise InvalidFieldsError(_decode_violations(outcome.payload))
            case Code.REQUEST_ID_REUSED:
                raise RequestIdReusedError("the request_id was used for another request; nothing was changed")
            case Code.CONFLICT | Code.STORE_CHANGED | Code.WRONG_CLOCK:
                raise AssertionError("a conflict is repeated, and the store raises the others")

    def _noun(self) -> str:
        return f"the {self.entity.DESCRIPTOR.name.lower()}"


def _conflict() -> UpdateConflictError:
    return UpdateConflictError("too many concurrent writes; nothing was changed, retry")


def _now() -> Timestamp:
    # Microseconds, the resolution of the clients' datetime: what is read back equals what was sent.
    now = Timestamp()
    now.FromMicroseconds(time.time_ns() // 1000)
    return now


def _new_etag() -> str:
    return secrets.token_urlsafe(9)


def _encode_violations(violations: list[Violation]) -> bytes:
    return "\n".join(f"{violation.field}\t{violation.description}" for violation in violations).encode()


def _decode_violations(payload: bytes) -> list[Violation]:
    return [Violation(*line.split("\t", 1)) for line in payload.decode().splitlines()]
