"""Receives correct responses with grpcio, to compare the responses to a load generator with them."""

from collections.abc import Iterator

import grpc
from google.protobuf.message import Message

from benchmarks.errors import BenchError
from loadgen import h2load
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import GetUserRequest, GetUserResponse

STREAM = "UserService/ListUsersChunked"
_LARGEST_DIFFERENCE = 1.15  # ratio of the sizes of responses to one request


class ExpectedBytes:
    """The sizes of correct responses. They detect errors, which are much shorter: h2load does not read the status."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], int] = {}

    def of(self, port: int, method: str, request: Message) -> int:
        """Returns the size of all messages of a correct response, with their headers."""
        key = (port, method.encode() + request.SerializeToString())
        if key not in self._known:
            self._known[key] = sum(
                len(message) + h2load.FRAME_HEAD_BYTES for message in messages(port, method, request)
            )
        return self._known[key]

    def check(self, port: int, method: str, request: Message, load: h2load.Load) -> None:
        """Compares the received bytes with those of correct responses; raises BenchError if they differ."""
        expected = load.calls * self.of(port, method, request)
        if load.data_bytes != expected:
            raise BenchError(f"{method}: received {load.data_bytes} bytes instead of {expected}; some calls failed")

    def check_alike(self, ports: dict[str, int], method: str, request: Message) -> None:
        """Raises BenchError unless the responses of all contestants have about the same size."""
        sizes = {contestant: self.of(port, method, request) for contestant, port in ports.items()}
        if max(sizes.values()) > _LARGEST_DIFFERENCE * min(sizes.values()):
            raise BenchError(f"{method}: the responses of the contestants have different sizes: {sizes}")


def messages(port: int, method: str, request: Message) -> Iterator[bytes]:
    """Yields the messages of a response; checks that the call ends with OK."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/userservice.v1.{method}")
        try:
            yield from call(request.SerializeToString())
        except grpc.RpcError as error:
            raise BenchError(f"{method} failed with {error.code()}") from None


def first_bytes(port: int, request: Message) -> int:
    """Returns the size of the first message of a stream, with its header."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/userservice.v1.{STREAM}")
        return len(next(call(request.SerializeToString()))) + h2load.FRAME_HEAD_BYTES


def user(port: int, user_id: str) -> User:
    """Returns a user, read from a server."""
    (message,) = messages(port, "UserService/GetUser", GetUserRequest(user_id=user_id))
    return GetUserResponse.FromString(message).user
