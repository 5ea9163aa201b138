"""The window of an import, and a service that has lost rows; with a real gRPC server that behaves as programmed."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest

from userservice import DeadlineExceededError, ImportOffsetGapError, ImportStatus, UserManager
from userservice.v1.user_import_pb2 import GetImportResponse, ImportUsersRequest, ImportUsersResponse

Context = grpc.aio.ServicerContext[bytes, bytes]


@contextlib.asynccontextmanager
async def serving(handle: Callable[[Context], Any], **unary: Callable[[bytes, Context], Any]) -> AsyncIterator[str]:
    async def stream(_requests: object, context: Context) -> None:
        await handle(context)

    server = grpc.aio.server()
    methods: dict[str, Any] = {"ImportUsers": grpc.stream_stream_rpc_method_handler(stream)}
    methods |= {name: grpc.unary_unary_rpc_method_handler(method) for name, method in unary.items()}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("userservice.v1.UserService", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def rows(read: list[int]) -> Iterator[dict[str, Any]]:
    for number in range(10_000):
        read.append(number)
        yield {"user_id": f"u{number}"}


async def received(context: Context) -> ImportUsersRequest | None:
    request: object = await context.read()
    return ImportUsersRequest.FromString(request) if isinstance(request, bytes) else None


async def respond(context: Context, offset: int) -> None:
    await context.write(ImportUsersResponse(acked_offset=offset).SerializeToString())


async def test_at_most_four_batches_have_no_response() -> None:
    batches: list[int] = []

    async def handle(context: Context) -> None:
        await received(context)
        await respond(context, 0)
        while (request := await received(context)) is not None:
            batches.append(request.batch.offset)

    read: list[int] = []
    async with serving(handle) as address, UserManager(address, timeout=1) as users:
        with pytest.raises(DeadlineExceededError):
            await users.import_users(rows(read))
    assert batches == [0, 500, 1000, 1500]
    assert len(read) <= 2600  # the rows are read in groups of 100, and only as they are sent


async def test_rows_that_are_applied_are_not_sent_again() -> None:
    batches: list[int] = []

    async def handle(context: Context) -> None:
        await received(context)
        await respond(context, 9700)
        while (request := await received(context)) is not None:
            batches.append(request.batch.offset)
            await respond(context, request.batch.offset + len(request.batch.users))

    async def state(_request: bytes, _context: Context) -> bytes:
        return GetImportResponse(acked_offset=9700).SerializeToString()

    async with serving(handle, GetImport=state) as address, UserManager(address, timeout=5) as users:
        assert (await users.import_users(rows([]))).offset == 10_000
    assert batches == [9700]


async def test_an_import_whose_rows_were_lost_is_not_continued() -> None:
    async def handle(context: Context) -> None:
        await received(context)
        await respond(context, 0)
        await received(context)
        await respond(context, 500)
        await received(context)
        await respond(context, 200)
        while await received(context) is not None:
            pass

    reported: list[ImportStatus] = []
    async with serving(handle) as address, UserManager(address, timeout=5) as users:
        with pytest.raises(ImportOffsetGapError, match="row 200"):
            await users.import_users(rows([]), on_progress=reported.append)
    assert [status.offset for status in reported] == [0, 500]
