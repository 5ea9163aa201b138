"""`python -m benchmarks.constant RECORD USERS`: a server that sends constant bytes, to measure the limit of grpcio.

RECORD is an encoded record in hexadecimal. The response of a single call is this record. The chunks of a stream contain
copies of the record, in total USERS copies. The server has the options and the event loop of the service, and decodes
only chunk_size.
"""

import userservice_server.cli  # noqa: F401, I001 - selects grpc's engine as the service does, before grpc is imported
import sys
from typing import TypeAlias

import grpc
import uvloop

from userservice.v1.user_service_pb2 import ListUsersChunkedRequest
from userservice_server.domain.stream_memory import MAX_RESPONSE_BYTES

Context = grpc.aio.ServicerContext[bytes, bytes]
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class Constant(grpc.GenericRpcHandler):
    """Handles every method with constant responses."""

    def __init__(self, record: bytes, users: int) -> None:
        self._record = record
        self._users = users
        self._unary_handler: Handler = grpc.unary_unary_rpc_method_handler(self._unary)
        self._stream_handler: Handler = grpc.unary_stream_rpc_method_handler(self._stream)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """Returns the handler of a call."""
        is_stream = handler_call_details.method.endswith("/ListUsersChunked")
        return self._stream_handler if is_stream else self._unary_handler

    async def _unary(self, _request: bytes, _context: Context) -> bytes:
        return self._record

    async def _stream(self, request: bytes, context: Context) -> None:
        size = min(ListUsersChunkedRequest.FromString(request).chunk_size, MAX_RESPONSE_BYTES // len(self._record))
        chunk, rest = self._record * size, self._record * (self._users % size)
        for _ in range(self._users // size):
            await context.write(chunk)
        if rest:
            await context.write(rest)


async def _serve(record: bytes, users: int) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([Constant(record, users)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"constant listening on 127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(bytes.fromhex(sys.argv[1]), int(sys.argv[2])))
