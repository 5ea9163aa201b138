"""A service with one RPC of each shape, with the real chain, in a real grpc server in this process."""

import contextlib
from collections.abc import AsyncIterator, Mapping

import grpc
from google.protobuf import wrappers_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from userservice.v1.options_pb2 import required_scope
from userservice_server.transport.admission import Admission
from userservice_server.transport.deadlines import Deadlines
from userservice_server.transport.drain import Drain
from userservice_server.transport.handlers import service_handler
from userservice_server.transport.interceptors import Settings
from userservice_server.transport.unread import UnreadResponses

SHAPES = {
    "UnaryUnary": (False, False),
    "UnaryStream": (False, True),
    "StreamUnary": (True, False),
    "StreamStream": (True, True),
}
PATH = "/tests.Shapes/"


def described(scopes: Mapping[str, str]) -> ServiceDescriptor:
    """Describes the service; a method requires the scope that is given for it, or admin."""
    proto = FileDescriptorProto(name="tests/shapes.proto", package="tests", syntax="proto3")
    proto.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    service = proto.service.add(name="Shapes")
    for name, (streams_requests, streams_responses) in SHAPES.items():
        method = service.method.add(
            name=name,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            client_streaming=streams_requests,
            server_streaming=streams_responses,
        )
        method.options.deprecated = name == "StreamStream"
        method.options.Extensions[required_scope] = scopes.get(name, "admin")
    pool = DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(proto.SerializeToString())
    found: ServiceDescriptor = pool.FindServiceByName("tests.Shapes")
    return found


DESCRIPTOR = described({})


def chain_settings(*, max_calls: int = 100, call_timeout: float = 10) -> Settings:
    return Settings(
        call_timeout=call_timeout,
        stall_timeout=10,
        access_log=True,
        deadlines=Deadlines(),
        drain=Drain(),
        admission=Admission(max_calls),
        unread=UnreadResponses(),
    )


@contextlib.asynccontextmanager
async def serving(servicer: object, settings: Settings | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """Serves the RPCs with the servicer's methods of their names; yields a channel to them."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([service_handler(DESCRIPTOR, servicer, settings or chain_settings())])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(1)
