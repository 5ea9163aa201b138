"""Creates the grpc handlers of a service from its descriptor and the methods of its servicer."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Self

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from userservice_server.errors import InvalidFieldsError, ReaderStalledError, Violation
from userservice_server.transport.audit import recorded, recorded_stream
from userservice_server.transport.call import Call, Context, Load, Rpc
from userservice_server.transport.deadlines import Deadline, DeadlinePassedError
from userservice_server.transport.interceptors import Settings, intercepted
from userservice_server.transport.request_sizes import most_bytes
from userservice_server.transport.unread import encoded

Decoder = Callable[[bytes], Message]

Method = Callable[[Any, Call], Awaitable[bytes]]
"""A method of a servicer. Takes the decoded request, or an async iterator over the decoded requests of a stream.

Returns the encoded response. Where responses are a stream, it writes them to ``call.context`` and returns ``b""``.
"""


def service_handler(
    service: ServiceDescriptor,
    servicer: object,
    settings: Settings,
    loads: Mapping[str, Load] | None = None,
    request_classes: Mapping[str, type[Message]] | None = None,
) -> grpc.GenericRpcHandler:
    """Creates the handlers of all RPCs of ``service``.

    To grpc, requests and responses are bytes: responses consist mostly of stored bytes, and a request that cannot be
    decoded is rejected with INVALID_FIELD, which grpc itself would not do.

    Args:
        service: describes the RPCs: their shapes, messages and options.
        servicer: has a method with the name of each RPC.
        settings: settings of the interceptors.
        loads: the load of RPCs by their names, if it does not follow from the shape of the RPC.
        request_classes: classes that decode the requests of RPCs, by their names; the others have generated classes.
    """
    handlers = {}
    for method in service.methods:
        rpc = Rpc.described_by(method, (loads or {}).get(method.name))
        request_class = (request_classes or {}).get(method.name) or GetMessageClass(method.input_type)
        decode = _decoder(request_class, most_bytes(method.input_type))
        handlers[method.name] = _grpc_handler(method, rpc, getattr(servicer, method.name), decode, settings)
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _grpc_handler(descriptor: MethodDescriptor, rpc: Rpc, method: Method, decode: Decoder, settings: Settings) -> Any:
    """Creates the handler of one RPC, in the shape that its descriptor defines."""
    if rpc.streams_requests:
        return _of_request_stream(rpc, method, decode, settings)
    is_write = "request_id" in descriptor.input_type.fields_by_name
    return _of_one_request(rpc, method, decode, settings, is_write=is_write)


def _of_one_request(rpc: Rpc, method: Method, decode: Decoder, settings: Settings, *, is_write: bool) -> Any:
    unread = settings.unread

    async def decoded(call: Call, request: bytes) -> bytes:
        if rpc.load is not Load.CALL:
            return await method(decode(request), call)
        unread.check(call)
        message = decode(request)
        if is_write and settings.audit_log is not None:
            with recorded(settings.audit_log, call, message):
                response = await method(message, call)
        else:
            response = await method(message, call)
        if not is_write:  # a write is applied already, so it must not be rejected
            unread.check(call, len(response))
        call.counted = unread.add(call, response)
        return response

    handler = intercepted(decoded, rpc, settings)

    async def unary_unary(request: bytes, context: Context) -> object:
        call = Call(rpc, context)
        try:
            response = await handler(call, request)
        except grpc.aio.AbortError as error:
            # grpc keeps this exception with the call, and the frames of its traceback hold the call and its request:
            # a reference cycle, which would stay in memory until the garbage collector runs.
            error.__traceback__ = None
            raise
        return call.counted or response

    async def unary_stream(request: bytes, context: Context) -> None:
        try:
            await handler(Call(rpc, context), request)
        except grpc.aio.AbortError as error:
            error.__traceback__ = None  # as above
            raise

    if rpc.streams_responses:
        return grpc.unary_stream_rpc_method_handler(unary_stream)
    return grpc.unary_unary_rpc_method_handler(unary_unary, response_serializer=encoded)


def _of_request_stream(rpc: Rpc, method: Method, decode: Decoder, settings: Settings) -> Any:
    async def iterated(call: Call, requests: AsyncIterator[Message]) -> bytes:
        if settings.audit_log is None:
            return await method(requests, call)
        with recorded_stream(settings.audit_log, call):
            return await method(requests, call)

    handler = intercepted(iterated, rpc, settings)

    # grpc's own iterator is not used: it is an async generator, which outlives the call if it is not read to its end.
    async def stream_unary(_requests: object, context: Context) -> bytes:
        try:
            return await handler(Call(rpc, context), _Requests(context, decode, settings))
        except grpc.aio.AbortError as error:
            error.__traceback__ = None  # as for one request
            raise

    async def stream_stream(_requests: object, context: Context) -> None:
        try:
            await handler(Call(rpc, context), _Requests(context, decode, settings))
        except grpc.aio.AbortError as error:
            error.__traceback__ = None  # as for one request
            raise

    if rpc.streams_responses:
        return grpc.stream_stream_rpc_method_handler(stream_stream)
    return grpc.stream_unary_rpc_method_handler(stream_unary)


class _Requests:
    """Iterates over the decoded requests of a stream; reads each request when it is needed.

    Raises:
        InvalidFieldsError: a request is too large, or cannot be decoded.
        ReaderStalledError: the caller sent nothing for ``--stall-timeout``.
    """

    def __init__(self, context: Context, decode: Decoder, settings: Settings) -> None:
        self._context = context
        self._decode = decode
        self._deadlines = settings.deadlines
        self._stall_timeout = settings.stall_timeout

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            with Deadline(self._deadlines, self._stall_timeout):
                request: object = await self._context.read()
        except DeadlinePassedError:
            text = f"stream closed: the client sent nothing for {self._stall_timeout:g} s"
            raise ReaderStalledError(text, next_cursor=0) from None
        if not isinstance(request, bytes):  # grpc.aio.EOF
            raise StopAsyncIteration
        return self._decode(request)


def _decoder(request_class: type[Message], limit: int) -> Decoder:
    def decode(request: bytes) -> Message:
        if len(request) > limit:
            description = f"must be at most {limit} bytes encoded, is {len(request)}"
            raise InvalidFieldsError([Violation("request", description)])
        try:
            message = request_class.FromString(request)
        except DecodeError:
            # Bad UTF-8, too deep, or not protobuf: the parser does not report where.
            description = f"cannot be decoded as {request_class.DESCRIPTOR.full_name}: bad UTF-8, or nested too deep"
            raise InvalidFieldsError([Violation("request", description)]) from None
        # Structs would copy unknown fields into records, where they can be nested too deep for clients to decode.
        message.DiscardUnknownFields()
        return message

    return decode
