"""RPCs without serialisers: requests and responses are the bytes that the test wants."""

from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    UnaryUnary = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    UnaryStream = grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
    StreamUnary = grpc.aio.StreamUnaryMultiCallable[bytes, bytes]
    StreamStream = grpc.aio.StreamStreamMultiCallable[bytes, bytes]


def unary_unary(channel: grpc.aio.Channel, path: str) -> "UnaryUnary":
    return channel.unary_unary(path)


def unary_stream(channel: grpc.aio.Channel, path: str) -> "UnaryStream":
    return channel.unary_stream(path)


def stream_unary(channel: grpc.aio.Channel, path: str) -> "StreamUnary":
    return channel.stream_unary(path)


def stream_stream(channel: grpc.aio.Channel, path: str) -> "StreamStream":
    return channel.stream_stream(path)
