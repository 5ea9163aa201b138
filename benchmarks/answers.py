"""Answers of servers as grpcio receives them with status OK, to compare those of a load generator with."""

from collections.abc import Iterator

import grpc
from google.protobuf.message import Message

from benchmarks.errors import BenchError
from loadgen import h2load
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import GetUserRequest, GetUserResponse

STREAM = "UserService/ListUsersChunked"
_LARGEST_DIFFERENCE = 1.15  # between the contestants' answers to one request


class ExpectedBytes:
    """How many bytes the right answer to a request has. An error is much shorter, and h2load does not see errors."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], int] = {}

    def of(self, port: int, method: str, request: Message) -> int:
        """Bytes of all messages of an answer, with their heads."""
        key = (port, method.encode() + request.SerializeToString())
        if key not in self._known:
            self._known[key] = sum(
                len(message) + h2load.FRAME_HEAD_BYTES for message in messages(port, method, request)
            )
        return self._known[key]

    def check(self, port: int, method: str, request: Message, load: h2load.Load) -> None:
        """Raises BenchError if the load received other bytes than right answers have."""
        expected = load.calls * self.of(port, method, request)
        if load.data_bytes != expected:
            raise BenchError(f"{method}: received {load.data_bytes} bytes instead of {expected}: some calls failed")

    def check_alike(self, ports: dict[str, int], method: str, request: Message) -> None:
        """Raises BenchError unless the answers of all contestants have about the same size."""
        sizes = {contestant: self.of(port, method, request) for contestant, port in ports.items()}
        if max(sizes.values()) > _LARGEST_DIFFERENCE * min(sizes.values()):
            raise BenchError(f"{method}: the contestants' answers have different sizes: {sizes}")


def messages(port: int, method: str, request: Message) -> Iterator[bytes]:
    """The messages of an answer, which must end with OK."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/userservice.v1.{method}")
        try:
            yield from call(request.SerializeToString())
        except grpc.RpcError as error:
            raise BenchError(f"{method} is answered with {error.code()}") from None


def first_bytes(port: int, request: Message) -> int:
    """Bytes of the first message of a stream, with its head."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/userservice.v1.{STREAM}")
        return len(next(call(request.SerializeToString()))) + h2load.FRAME_HEAD_BYTES


def user(port: int, user_id: str) -> User:
    """A user as a server returns it."""
    (message,) = messages(port, "UserService/GetUser", GetUserRequest(user_id=user_id))
    return GetUserResponse.FromString(message).user
