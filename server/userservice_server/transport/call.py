"""One call on its way through the interceptors to its handler."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(slots=True, eq=False)
class Call:
    """What the server knows of a call.

    Attributes:
        method: short name of the RPC, such as ``GetUser``.
        context: grpc's side of the call.
        is_stream: whether the RPC answers with a stream.
        request_id: names the call in log lines and in error details.
        refused_for: seconds after which to try again, if the server runs too many calls to run this one.
        code: how the call ended.
        log_fields: what handlers add to the access log; no personal data.
    """

    method: str
    context: Context
    is_stream: bool
    request_id: str = ""
    refused_for: float | None = None
    code: grpc.StatusCode = grpc.StatusCode.OK
    log_fields: dict[str, Any] = field(default_factory=dict)
    _headers: tuple[tuple[str, str | bytes], ...] | None = None

    @property
    def headers(self) -> tuple[tuple[str, str | bytes], ...]:
        """Key and value of each request header; grpc decodes them anew whenever it is asked."""
        if self._headers is None:
            self._headers = tuple(self.context.invocation_metadata() or ())
        return self._headers


Handler = Callable[[Call, bytes], Awaitable[bytes]]
"""Answers a call, given the encoded request, with the encoded response; of a stream that is the last thing, empty."""
