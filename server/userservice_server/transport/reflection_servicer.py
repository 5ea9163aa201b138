"""Server reflection (grpc.reflection.v1 and v1alpha), so that grpcurl, grpcui and buf curl work without proto files."""

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from userservice_server.errors import ReaderStalledError
from userservice_server.transport.call import Call, Load
from userservice_server.transport.deadlines import Deadline, DeadlinePassedError, Deadlines

LOADS = {"ServerReflectionInfo": Load.REFLECTION}


class _Pool:
    """A descriptor pool that finds the files of methods and fields too, which protobuf's own look-up does not."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindFileContainingSymbol(symbol.rpartition(".")[0])


class ReflectionServicer:
    """Implements both versions of reflection, whose messages are the same on the wire.

    Args:
        services: full names of the services to list.
        pool: the descriptors that reflection returns.
        deadlines: checks the deadlines.
        stall_timeout: maximum seconds that a client may take to read a response.
    """

    def __init__(
        self, services: Iterable[str], pool: DescriptorPool, deadlines: Deadlines, stall_timeout: float
    ) -> None:
        self._servicer = reflection.aio.ReflectionServicer(services, pool=_Pool(pool))
        self._deadlines = deadlines
        self._stall_timeout = stall_timeout

    async def ServerReflectionInfo(self, requests: AsyncIterator[Message], call: Call) -> bytes:
        answers = self._servicer.ServerReflectionInfo(_as_v1alpha(requests), call.context)
        async with aclosing(answers):
            async for answer in answers:
                await self._write(call, answer.SerializeToString())
        return b""

    async def _write(self, call: Call, answer: bytes) -> None:
        # Without a limit, a few clients that do not read could occupy all reflection streams forever.
        try:
            with Deadline(self._deadlines, self._stall_timeout):
                await call.context.write(answer)
                call.count_sent()
        except DeadlinePassedError:
            raise ReaderStalledError("stream closed: the client stopped reading", next_cursor=0) from None


async def _as_v1alpha(requests: AsyncIterator[Message]) -> AsyncIterator[ServerReflectionRequest]:
    async for request in requests:
        yield ServerReflectionRequest.FromString(request.SerializeToString())
