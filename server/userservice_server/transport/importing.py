"""Runs the calls of ImportUsers: reads batches, and yields the responses for ``Streaming.send``."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from google.protobuf.message import Message

from userservice.v1.user_import_pb2 import ImportOptions, OnDuplicate
from userservice_server.domain.import_ports import ImportState
from userservice_server.domain.imports import CHANGING, Batch, Import, Imports, Options
from userservice_server.domain.validation import Checker
from userservice_server.errors import InvalidFieldsError, ServerShuttingDownError, Violation
from userservice_server.transport.call import Call
from userservice_server.transport.drain import Drain
from userservice_server.transport.streaming import Responses
from userservice_server.wire.imports import MAX_BATCH_ROWS
from userservice_server.wire.records import ID_TAG
from userservice_server.wire.varint import varint

RESTORE_SCOPE = "admin"
_MAX_DIGEST_BYTES = 128


async def responses(
    imports: Imports, drain: Drain, requests: AsyncIterator[Message], call: Call
) -> AsyncGenerator[Responses]:
    """Yields the response to each request of one call.

    While a batch is applied, the next batch is read and decoded.

    Raises:
        ServerShuttingDownError: the server shuts down while the import waits for its caller.
    """
    first: Any = await anext(requests, None)
    options = _checked_options(first.options if first is not None else ImportOptions())
    if options.restore:
        call.require(RESTORE_SCOPE)
    call.log_fields["import_id"] = options.import_id
    running = await imports.open(options)
    before = running.totals
    reading = asyncio.create_task(_next_batch(requests, running))
    try:
        yield _one(running, running.response())
        while (batch := await _until_shutdown(reading, drain, running)) is not None:
            reading = asyncio.create_task(_next_batch(requests, running))
            yield _one(running, await running.apply(batch))
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        _report(call, options, before, running.totals)


def _one(running: Import, response: bytes) -> Responses:
    """Returns one response, with the offset as its cursor, for errors that end the stream."""
    return iter([(response, bytes([ID_TAG]) + varint(running.acked_offset), 0)])


def _report(call: Call, options: Options, before: ImportState, after: ImportState) -> None:
    """Adds what the call did to the access log and the audit log."""
    numbers = {name: getattr(after, name) - getattr(before, name) for name in ImportState._fields[1:]}
    call.log_fields |= {"offset": after.applied, **numbers}
    if not options.validate_only:
        call.audited = {"import_id": options.import_id, "offset": before.applied, **numbers}
        if options.restore:
            call.audited["restore"] = True


async def _next_batch(requests: AsyncIterator[Message], running: Import) -> Batch | None:
    request: Any = await anext(requests, None)
    if request is None:
        return None
    if not request.HasField("batch"):
        raise InvalidFieldsError([Violation("batch", "is required in every message after the first")])
    users, offset = request.batch.users, request.batch.offset
    with Checker() as check:
        if not 1 <= len(users) <= MAX_BATCH_ROWS:
            check.refuse("batch.users", f"must have 1 to {MAX_BATCH_ROWS} entries, has {len(users)}")
        if offset < 0:
            check.refuse("batch.offset", "must not be negative")
    return await running.decode(users, offset)


async def _until_shutdown(reading: "asyncio.Task[Batch | None]", drain: Drain, running: Import) -> Batch | None:
    """Waits for the next batch."""
    if not reading.done():
        stopping = asyncio.create_task(drain.wait_for_start())
        try:
            await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if not reading.done():
            text = "the server is shutting down; resume the import"
            raise ServerShuttingDownError(text, next_cursor=running.acked_offset)
    return await reading


def _checked_options(options: Any) -> Options:
    with Checker() as check:
        import_id = check.uuid("options.import_id", options.import_id)
        on_duplicate = options.on_duplicate or OnDuplicate.ON_DUPLICATE_FAIL
        if on_duplicate not in OnDuplicate.values():
            check.refuse("options.on_duplicate", "must be FAIL, SKIP, MERGE or REPLACE")
        if options.restore and on_duplicate in CHANGING:
            check.refuse("options.on_duplicate", "must be FAIL or SKIP, because restore is set")
        check.text("options.digest", options.digest, _MAX_DIGEST_BYTES)
    return Options(import_id, on_duplicate, options.validate_only, options.restore, options.digest)
