"""The state of one call, which the interceptors and the handler share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from userservice_server.errors import ScopeMissingError
from userservice_server.observability.trace_context import TraceContext

Context = grpc.aio.ServicerContext[bytes, bytes]


class Load(Enum):
    """The kind of a call, by the load that it causes. admission.py limits each kind."""

    CALL = "a unary call"
    STREAM = "a call with a stream of requests or responses"
    PROBE = "a health check, which the server answers even when it is overloaded"
    WATCH = "a stream of health changes"
    IMPORT = "an import"
    REFLECTION = "a stream of reflection requests"


@dataclass(frozen=True, slots=True, eq=False)
class Rpc:
    """A method of a service.

    Attributes:
        name: short name, such as ``GetUser``.
        service: full name of the service, such as ``userservice.v1.UserService``.
        streams_requests: whether the caller sends a stream of requests.
        streams_responses: whether the server sends a stream of responses.
        options: the options that the proto sets on the method, extensions included.
        load: the kind of the method's calls.
    """

    name: str
    service: str
    streams_requests: bool
    streams_responses: bool
    options: MethodOptions
    load: Load

    @classmethod
    def described_by(cls, method: MethodDescriptor, load: Load | None = None) -> Self:
        """Reads a method's descriptor; the default of ``load`` depends on the shape of the RPC."""
        is_stream = method.client_streaming or method.server_streaming
        return cls(
            name=method.name,
            service=method.containing_service.full_name,
            streams_requests=method.client_streaming,
            streams_responses=method.server_streaming,
            options=method.GetOptions(),
            load=load or (Load.STREAM if is_stream else Load.CALL),
        )

    @property
    def is_stream(self) -> bool:
        """Whether requests or responses are a stream."""
        return self.streams_requests or self.streams_responses


@dataclass(slots=True, eq=False)
class Call:
    """One call.

    Attributes:
        rpc: the method that is called.
        context: the context that grpc passes to the handler.
        call_id: identifies the call in the log (field ``request_id``) and in errors (``RequestInfo.request_id``). The
            caller can set it with the header ``x-request-id``. Different from the field ``request_id`` of a write,
            which is the write's idempotency key.
        code: the status code with which the call ended.
        log_fields: fields that handlers add to the access log; no personal data.
        cursor: encoded next_cursor of the last response of a stream that has ended.
        scopes: the scopes of the caller's credential; None if callers are not authenticated.
        more_scopes: the scopes that the call needs in addition to that of its method, because of its options.
        audited: fields for the audit log of a stream that writes; empty if it has changed nothing.
        counted: the response of a unary call, if it counts as unread (unread.py).
        credential: the caller's header ``authorization``; ``b""`` if there are several, None if there is none.
        trace: the span of the call; while the call is not traced, the span of its caller. None if there is none.
        on_sent: called with the number of users in each response that a stream has sent; None: nothing is measured.
    """

    rpc: Rpc
    context: Context
    call_id: str = ""
    code: grpc.StatusCode = grpc.StatusCode.OK
    log_fields: dict[str, Any] = field(default_factory=dict)
    cursor: bytes = b""
    scopes: frozenset[str] | None = None
    more_scopes: tuple[str, ...] = ()
    audited: dict[str, Any] = field(default_factory=dict)
    counted: object = None
    credential: str | bytes | None = field(default=None, repr=False)
    trace: TraceContext | None = None
    on_sent: Callable[[int], None] | None = None
    _headers: tuple[tuple[str, str | bytes], ...] | None = field(default=None, repr=False)

    @property
    def headers(self) -> tuple[tuple[str, str | bytes], ...]:
        """Key and value of each request header; cached, because grpc decodes the headers at each access."""
        if self._headers is None:
            self._headers = tuple(self.context.invocation_metadata() or ())
        return self._headers

    def require(self, scope: str) -> None:
        """Requires a scope in addition to that of the method. A stream ends when its credential loses the scope.

        Raises:
            ScopeMissingError: the caller does not have the scope.
        """
        if self.scopes is not None and scope not in self.scopes:
            raise ScopeMissingError(scope)
        self.more_scopes = (*self.more_scopes, scope)

    def count_sent(self, users: int = 0) -> None:
        """Reports a response of a stream that was sent, with the number of users in it."""
        if self.on_sent is not None:
            self.on_sent(users)


Request = TypeVar("Request")
"""What a handler receives: the encoded request, or an async iterator over the decoded requests of a stream."""

Handler = Callable[[Call, Request], Awaitable[bytes]]
"""Answers a call with the encoded response; writes the responses of a stream to the context and returns ``b""``."""
