"""Compressed requests are accepted; responses are never compressed, because grpc hides the request's encoding."""

import gzip
import zlib
from collections.abc import Callable

import grpc
import pytest
from harness.connections import OPTIONS
from harness.floods import block
from harness.population import struct
from harness.services import Service

from loadgen import http2
from userservice.v1.user_service_pb2 import AddUserRequest, GetUserRequest
from userservice.v1.user_service_pb2_grpc import UserServiceStub

LARGE = struct({"k": "x" * 50_000})
METHOD = "/userservice.v1.UserService/GetUser"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_grpc_client_that_compresses(service: Service, compression: grpc.Compression) -> None:
    with grpc.insecure_channel(service.address, OPTIONS, compression=compression) as channel:
        users = UserServiceStub(channel)
        added = users.AddUser(AddUserRequest(user_id="ada", metadata=LARGE), timeout=10).user
        assert added.metadata == LARGE
        assert users.GetUser(GetUserRequest(user_id="ada"), timeout=10).user == added


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_the_response_to_a_compressed_request_is_not_compressed(
    service: Service, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    with grpc.insecure_channel(service.address, OPTIONS) as channel:
        UserServiceStub(channel).AddUser(AddUserRequest(user_id="ada", metadata=LARGE), timeout=10)
    body = compress(GetUserRequest(user_id="ada").SerializeToString())
    connection = http2.Connection(service.port)
    headers = block(METHOD, grpc_encoding=encoding, grpc_accept_encoding="gzip")
    connection.socket.sendall(connection.request(headers, b"\x01" + len(body).to_bytes(4, "big") + body))
    received, is_ended = 0, False
    while not is_ended:
        frames = list(connection.frames())
        received += sum(frame.length for frame in frames if frame.is_data)
        is_ended = any(frame.ends_call for frame in frames)
    connection.close()
    assert received > 50_000
