"""Rows of imports: how they are decoded, and how they are divided into scripts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest
from harness.population import struct

from userservice.v1.user_import_pb2 import ImportUsersResponse
from userservice.v1.user_pb2 import User
from userservice_server.domain.import_merging import planned
from userservice_server.domain.import_rows import Fields, Row, RowDecoder
from userservice_server.domain.imports import _chunks
from userservice_server.store.imports import _row_arguments
from userservice_server.transport.status import row_status
from userservice_server.wire.ids import MAX_ID
from userservice_server.wire.imports import status_field
from userservice_server.wire.records import frame, key_field


def decoder(fields: Fields = Fields.CALLERS) -> RowDecoder:
    return RowDecoder(lambda error: status_field(row_status(error)), fields)


@contextlib.asynccontextmanager
async def counted_turns() -> AsyncIterator[Callable[[], int]]:
    """Counts how often other tasks run."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    yield lambda: turns
    counting.cancel()


async def test_other_calls_run_while_a_batch_is_decoded() -> None:
    """A batch of 500 rows takes several milliseconds, during which the event loop must serve other calls."""
    async with counted_turns() as turns:
        rows = await decoder().decode([User(user_id=f"u{number}").SerializeToString() for number in range(500)], 0, 0)
        small = turns()
        large = User(user_id="u", metadata=struct({"k": "x" * 60_000})).SerializeToString()
        await decoder().decode([large] * 16, 0, 0)
        assert len(rows) == 500
        assert small >= 500 // 16
        assert turns() - small >= 15, "large rows take as long as many small rows"


async def test_other_calls_run_more_often_while_invalid_rows_are_decoded() -> None:
    """The error of an invalid row takes several times as long as a valid row."""
    async with counted_turns() as turns:
        rows = await decoder().decode([User(user_id=" ").SerializeToString()] * 200, 0, 0)
        assert all(row.error for row in rows)
        assert turns() >= 200 // 4


async def test_other_calls_run_while_the_arguments_of_a_script_are_made() -> None:
    tail = User(uuid=str(uuid4()), email="ada@example.org").SerializeToString()
    async with counted_turns() as turns:
        arguments = await _row_arguments([(f"u{number}", b"", tail) for number in range(200)])
        assert len(arguments) == 4 * 200
        assert turns() >= 200 // 64


async def test_other_calls_run_while_changes_are_planned() -> None:
    rows = await decoder().decode([User(user_id=f"u{number}").SerializeToString() for number in range(200)], 0, 0)
    async with counted_turns() as turns:
        plan = await planned(rows, {}, whole=False, status_field=lambda _: b"")
        assert plan.added == 200
        assert turns() >= 2 * (200 // 8), "rows are merged, and then the users are encoded"


async def test_applied_rows_are_not_decoded_again() -> None:
    rows = await decoder().decode([b"\x0a\x01a", b"\x0a\x01b", b"\x0a\x01c"], offset=10, first=11)
    assert [(row.number, row.user_id) for row in rows] == [(11, "b"), (12, "c")]


@pytest.mark.parametrize(
    "fields",
    [
        {"email": "e" * 320, "first_name": "f" * 256, "last_name": "l" * 256},
        {"email": "é" * 160},
        {"metadata": struct({"k": "x" * 65521})},
        {"metadata": struct({"k" * 15: [[[["2*"]]]]})},
    ],
)
async def test_the_content_of_a_new_user_is_a_valid_record(fields: dict[str, Any]) -> None:
    sent = User(user_id="ada", id=5, etag="x", **fields)
    [row] = await decoder(Fields.NEW).decode([sent.SerializeToString()], 0, 0)
    assert row.error == b""
    user = User.FromString(key_field("ada") + row.content)
    assert (user.user_id, user.id, len(user.uuid), len(user.etag)) == ("ada", 0, 36, 12)
    assert user.created_at == user.updated_at
    for name in ("email", "first_name", "last_name", "metadata"):
        assert getattr(user, name) == getattr(sent, name)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"email": "e" * 321}, "email"),
        ({"first_name": "é" * 129}, "first_name"),
        ({"metadata": struct({"k": "x" * 65522})}, "metadata"),
        ({"metadata": struct({"k": float("inf")})}, "metadata"),
        ({"user_id": "a\n"}, "user_id"),
    ],
)
async def test_an_invalid_row_has_an_error(fields: dict[str, Any], wrong: str) -> None:
    sent = User(**{"user_id": "ada", **fields})
    [row] = await decoder(Fields.NEW).decode([sent.SerializeToString()], 7, 0)
    assert row.number == 7
    assert wrong.encode() in row.error


NOW = Timestamp(seconds=1_800_000_000)
RESTORED: dict[str, Any] = {
    "user_id": "ada",
    "id": 7,
    "uuid": str(uuid4()),
    "created_at": NOW,
    "updated_at": NOW,
    "etag": "e",
}


async def test_a_restored_row_keeps_all_fields_and_no_unknown_field() -> None:
    user = User(email="e", metadata=struct({"n": 1}), **RESTORED)
    [row] = await decoder(Fields.ALL).decode([user.SerializeToString() + b"\x9a\x06\x01x"], 0, 0)
    assert (row.error, row.id, row.content) == (b"", 7, frame(user))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_id", ""),
        ("id", 0),
        ("id", MAX_ID + 1),
        ("uuid", "ada"),
        ("created_at", None),
        ("created_at", Timestamp(seconds=1 << 40)),
        ("updated_at", None),
        ("etag", ""),
        ("etag", "e" * 65),
        ("email", "e" * 321),
        ("metadata", struct({"k": float("nan")})),
    ],
)
async def test_a_restored_row_must_be_a_valid_record(field: str, value: Any) -> None:
    [row] = await decoder(Fields.ALL).decode([User(**{**RESTORED, field: value}).SerializeToString()], 0, 0)
    [error] = ImportUsersResponse.FromString(row.error).row_errors
    violations = BadRequest()
    assert error.status.details[1].Unpack(violations)
    assert [violation.field for violation in violations.field_violations] == [field]


def test_scripts_have_at_most_200_rows() -> None:
    rows = [Row(number, "") for number in range(3, 500) if number % 5]
    chunks = _chunks(rows, 2, 510)
    assert [len(chunk) for chunk, _, _ in chunks] == [200, 198]
    assert [(start, stop) for _, start, stop in chunks] == [(2, rows[200].number), (rows[200].number, 510)]
    assert _chunks([], 2, 5) == [([], 2, 5)]
