"""From the methods of a servicer to handlers of grpc, by way of the service's descriptor."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from userservice_server.errors import InvalidFieldsError, Violation
from userservice_server.transport.call import Call, Context, Handler
from userservice_server.transport.interceptors import Settings, intercepted
from userservice_server.transport.request_sizes import most_bytes

Method = Callable[[Any, Call], Awaitable[bytes]]
"""A method of a servicer: takes the decoded request, returns the encoded response."""


def service_handler(
    service: ServiceDescriptor, servicer: object, settings: Settings, track: Callable[[Handler], Handler]
) -> grpc.GenericRpcHandler:
    """Makes the handlers of all RPCs of ``service``, which ``servicer`` implements by their names.

    grpc hands over and takes bytes: a response is mostly made of stored bytes, and a request that cannot be decoded is
    the caller's mistake, to be told as such.
    """
    handlers = {method.name: _method_handler(method, servicer, settings, track) for method in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _method_handler(
    method: MethodDescriptor, servicer: object, settings: Settings, track: Callable[[Handler], Handler]
) -> Any:
    decoded = _decoded(
        getattr(servicer, method.name), GetMessageClass(method.input_type), most_bytes(method.input_type)
    )
    handler = track(intercepted(decoded, settings))
    name = method.name

    if method.server_streaming:

        async def stream(request: bytes, context: Context) -> None:
            try:
                await handler(Call(name, context, is_stream=True), request)
            except grpc.aio.AbortError as error:
                error.__traceback__ = None  # as below
                raise

        return grpc.unary_stream_rpc_method_handler(stream)

    async def unary(request: bytes, context: Context) -> bytes:
        try:
            return await handler(Call(name, context, is_stream=False), request)
        except grpc.aio.AbortError as error:
            # grpc keeps this exception with the call, and the frames of its traceback hold the call and its request:
            # a cycle, which would stay in memory until the garbage collector runs.
            error.__traceback__ = None
            raise

    return grpc.unary_unary_rpc_method_handler(unary)


def _decoded(method: Method, request_class: type[Message], limit: int) -> Handler:
    async def handle(call: Call, request: bytes) -> bytes:
        if len(request) > limit:
            description = f"must be at most {limit} bytes encoded, is {len(request)}"
            raise InvalidFieldsError([Violation("request", description)])
        try:
            message = request_class.FromString(request)
        except DecodeError:
            # Bad UTF-8, too deep, or no protobuf at all: the parser does not say where.
            description = f"cannot be decoded as {request_class.DESCRIPTOR.full_name}: bad UTF-8, or nested too deep"
            raise InvalidFieldsError([Violation("request", description)]) from None
        # Else Structs would carry them into records, where they can be nested too deep for a list to be read.
        message.DiscardUnknownFields()
        return await method(message, call)

    return handle
