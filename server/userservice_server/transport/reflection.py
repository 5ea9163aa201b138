"""Server reflection, which lets grpcurl and its like work without proto files."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection


class _Pool:
    """This process's descriptors. Names of methods are found too, which protobuf's own look-up does not know."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - protobuf's name
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindFileContainingSymbol(symbol.rpartition(".")[0])


def enable_reflection(services: Iterable[str], server: grpc.aio.Server) -> None:
    """Makes ``server`` tell of the services of these full names, and of reflection itself."""
    reflection.enable_server_reflection((*services, reflection.SERVICE_NAME), server, pool=_Pool())
