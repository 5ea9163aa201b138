"""RPCs of all four shapes, made from their descriptors and called through a real grpc server."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from harness import raw
from harness.failures import Failure, failure_of
from harness.shapes import PATH, SHAPES, chain_settings, serving

from userservice_server.transport.call import Call
from userservice_server.transport.request_sizes import STANDARD_REQUEST_BYTES


def encoded(text: str) -> bytes:
    return StringValue(value=text).SerializeToString()


class Servicer:
    """Joins the received words and returns them, in one response or word by word."""

    def __init__(self) -> None:
        self.deprecated: dict[str, bool] = {}

    def _note(self, call: Call) -> None:
        self.deprecated[call.rpc.name] = call.rpc.options.deprecated

    async def UnaryUnary(self, request: StringValue, call: Call) -> bytes:  # noqa: N802
        self._note(call)
        return encoded(request.value)

    async def UnaryStream(self, request: StringValue, call: Call) -> bytes:  # noqa: N802
        self._note(call)
        for word in request.value.split():
            await call.context.write(encoded(word))
        return b""

    async def StreamUnary(self, requests: AsyncIterator[StringValue], call: Call) -> bytes:  # noqa: N802
        self._note(call)
        return encoded(" ".join([request.value async for request in requests]))

    async def StreamStream(self, requests: AsyncIterator[StringValue], call: Call) -> bytes:  # noqa: N802
        self._note(call)
        async for request in requests:
            await call.context.write(encoded(request.value))
        return b""


async def sent(*words: str) -> AsyncIterator[bytes]:
    for word in words:
        yield encoded(word)


async def test_every_rpc_shape_is_called_as_its_descriptor_declares() -> None:
    servicer = Servicer()
    async with serving(servicer) as channel:
        assert await raw.unary_unary(channel, PATH + "UnaryUnary")(encoded("a b")) == encoded("a b")
        assert [part async for part in raw.unary_stream(channel, PATH + "UnaryStream")(encoded("a b"))] == [
            encoded("a"),
            encoded("b"),
        ]
        assert await raw.stream_unary(channel, PATH + "StreamUnary")(sent("a", "b")) == encoded("a b")
        answers = raw.stream_stream(channel, PATH + "StreamStream")(sent("a", "b", "c"))
        assert [part async for part in answers] == [encoded("a"), encoded("b"), encoded("c")]
    assert servicer.deprecated == {name: name == "StreamStream" for name in SHAPES}


async def test_the_next_request_is_read_on_demand() -> None:
    async with serving(Servicer()) as channel:
        call = raw.stream_stream(channel, PATH + "StreamStream")()
        for word in ("a", "b"):
            await call.write(encoded(word))
            assert await call.read() == encoded(word)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def failed(call: grpc.aio.StreamUnaryCall[bytes, bytes]) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(call, 10)
    return failure_of(raised.value)


@pytest.mark.parametrize("request_bytes", [b"\x0a\xff", b"x" * (STANDARD_REQUEST_BYTES + 1)])
async def test_a_later_request_of_a_stream_is_checked_too(request_bytes: bytes) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield encoded("a")
        yield request_bytes

    async with serving(Servicer()) as channel:
        failure = await failed(raw.stream_unary(channel, PATH + "StreamUnary")(requests()))
    assert (failure.reason, failure.fields) == ("INVALID_FIELD", ["request"])


async def test_the_server_ends_a_stream_whose_client_sends_nothing() -> None:
    settings = replace(chain_settings(), stall_timeout=0.2)
    async with serving(Servicer(), settings) as channel:
        failure = await failed(raw.stream_unary(channel, PATH + "StreamUnary")())
    assert (failure.code, failure.reason) == ("UNAVAILABLE", "READER_STALLED")
    assert "0.2 s" in failure.message
