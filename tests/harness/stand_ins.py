"""A real gRPC server with programmed responses, to test clients against a faulty service."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

Answer = Callable[[bytes], AsyncIterator[Message]]
"""From an encoded request to the responses."""


class StandIn(grpc.GenericRpcHandler):
    """Responds to each method by its short name, such as `GetUser`, and counts the calls.

    Every method is served as a server stream. To a client a unary call is a stream of one message.
    """

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers
        self.calls = 0
        self.cancelled = 0
        self.peers: list[str] = []
        self.headers: list[list[tuple[str, str | bytes]]] = []

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        answer = self._answers.get(details.method.rpartition("/")[2])
        if answer is None:
            return None

        async def handle(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
            self.calls += 1
            self.peers.append(context.peer())
            self.headers.append([(key, value) for key, value in details.invocation_metadata])
            try:
                async for message in answer(request):
                    yield message.SerializeToString()
            except Refusal as refusal:
                await context.abort(refusal.code, "refused", (("grpc-status-details-bin", refusal.details),))

        return grpc.unary_stream_rpc_method_handler(handle)


class Refusal(Exception):  # noqa: N818 - what a test wants
    """Ends a call with a status that suggests a retry after the given seconds."""

    def __init__(self, seconds: int, nanos: int = 0) -> None:
        super().__init__(seconds)
        self.code = grpc.StatusCode.UNAVAILABLE
        retry = RetryInfo()
        retry.retry_delay.seconds, retry.retry_delay.nanos = seconds, nanos
        status = Status(code=self.code.value[0], message="refused")
        for detail in (ErrorInfo(reason="STORE_UNAVAILABLE", domain="userservice"), retry):
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        self.details = status.SerializeToString()


def once(response: Message) -> Answer:
    """Responds to every request with the same message."""

    async def answer(_: bytes) -> AsyncIterator[Message]:
        yield response

    return answer


@contextlib.asynccontextmanager
async def serve(handler: StandIn, *options: tuple[str, int], address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Runs the server in this event loop; yields the address."""
    server = grpc.aio.server(handlers=[handler], options=[("grpc.so_reuseport", 0), *options])
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield address if address.startswith("unix") else f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
