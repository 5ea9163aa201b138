"""Plans the changes of an import that merges or replaces users."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from userservice.v1.user_pb2 import User
from userservice_server.domain.entities import renew, stamp_new
from userservice_server.domain.import_rows import Row, StatusField
from userservice_server.domain.patch import Patch
from userservice_server.domain.users import MUTABLE_FIELDS
from userservice_server.errors import InvalidFieldsError
from userservice_server.wire.imports import framed_row_error
from userservice_server.wire.records import decode, frame, key_field

_TURN_ROWS = 8  # rows between two turns of the event loop


@dataclass(slots=True)
class Plan:
    """What a script does with some rows.

    Attributes:
        rows: for each user that is added or changed: user_id, old record (empty if the user is added), and new record.
        rejected: index and framed RowError of each row that fails.
        added: number of rows that add a user.
        changed: number of rows that change a user.
    """

    rows: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    rejected: list[tuple[int, bytes]] = field(default_factory=list)
    added: int = 0
    changed: int = 0


async def planned(rows: Sequence[Row], records: Mapping[str, bytes], *, whole: bool, status_field: StatusField) -> Plan:
    """Applies the rows, one after the other, to users.

    Args:
        rows: the rows.
        records: the records of the users that exist, by user_id.
        whole: whether a row replaces the fields of a user, or is merged into them.
        status_field: encodes the errors of rows.
    """
    plan = Plan()
    users: dict[str, User] = {}
    for place, row in enumerate(rows, 1):
        if place % _TURN_ROWS == 0:
            await asyncio.sleep(0)  # other calls run
        if row.error:
            plan.rejected.append((row.number, row.error))
            continue
        user = users.get(row.user_id)
        if user is None and (record := records.get(row.user_id)):
            user = decode(User, record)
        if user is None:
            users[row.user_id] = _new(row)
            plan.added += 1
            continue
        changed = User()
        changed.CopyFrom(user)  # a row that fails must not change the user for later rows
        violations = _patch(row, whole=whole).apply(changed)
        if violations:
            error = status_field(InvalidFieldsError(violations))
            plan.rejected.append((row.number, framed_row_error(row.number, error)))
            continue
        users[row.user_id] = changed
        plan.changed += 1
    for place, (user_id, user) in enumerate(users.items(), 1):
        if place % _TURN_ROWS == 0:
            await asyncio.sleep(0)
        plan.rows.append(_written(user_id, user, records.get(user_id, b"")))
    return plan


def _values(row: Row) -> User:
    return User.FromString(key_field(row.user_id) + row.content)


def _patch(row: Row, *, whole: bool) -> Patch[User]:
    values = _values(row)
    present = frozenset(field.name for field, _ in values.ListFields() if field.name in MUTABLE_FIELDS)
    return Patch(values, frozenset(MUTABLE_FIELDS) if whole else present, whole=whole)


def _new(row: Row) -> User:
    user = _values(row)
    stamp_new(user)
    return user


def _written(user_id: str, user: User, old: bytes) -> tuple[str, bytes, bytes]:
    renew(user)
    if old:
        return user_id, old, frame(user)
    return user_id, b"", user.SerializeToString()[len(key_field(user_id)) :]
