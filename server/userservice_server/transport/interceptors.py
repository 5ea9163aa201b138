"""The interceptors that every call passes through before its handler. CHAIN defines their order.

The chain of each RPC is built once, when the server starts. grpc looks up its own ServerInterceptors for each call.
"""

import asyncio
import itertools
import logging
import re
import secrets
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import grpc

from userservice_server.errors import (
    DeadlineExceededError,
    InvalidFieldsError,
    OverloadedError,
    RateLimitedError,
    ServiceError,
    StoreUnavailableError,
    Violation,
)
from userservice_server.observability.audit_log import AuditLog
from userservice_server.observability.log_writer import add_line
from userservice_server.observability.metrics.calls import CallMetrics
from userservice_server.observability.trace_context import HEADER, parsed
from userservice_server.transport.admission import Admission, Budget
from userservice_server.transport.call import Call, Handler, Load, Request, Rpc
from userservice_server.transport.channel_options import MAX_HEADER_BYTES
from userservice_server.transport.credentials.authentication import CREDENTIAL_KEY, Authentication, check_scope
from userservice_server.transport.credentials.scopes import required_scope
from userservice_server.transport.deadlines import Deadline, DeadlinePassedError, Deadlines
from userservice_server.transport.drain import Drain
from userservice_server.transport.measuring import measured
from userservice_server.transport.status import DETAILS_KEY, ProtocolError, encoded_status
from userservice_server.transport.tracing import traced
from userservice_server.transport.unread import UnreadResponses

if TYPE_CHECKING:
    from userservice_server.observability.tracing.spans import CallSpans

access_logger = logging.getLogger("userservice.access")
error_logger = logging.getLogger("userservice.errors")

CALL_ID_KEY = "x-request-id"
_HEADER_OVERHEAD = 32  # per header, as HTTP/2 counts in SETTINGS_MAX_HEADER_LIST_SIZE
_ABORT_SECONDS = 1.0
_VISIBLE_ASCII = re.compile(r"[!-~]{1,128}", re.ASCII)
_process = secrets.token_hex(6)
_numbers = itertools.count(1)
_WITHOUT_HEADER_LIMIT = frozenset((Load.PROBE, Load.WATCH))  # a probe must not fail because a proxy adds headers
_WRITING = frozenset(("users.write", "users.import", "sessions.write"))  # scopes
# A shutdown does not wait for other calls: they never end by themselves, or clients repeat them soon.
_DRAINED = frozenset((Load.CALL, Load.STREAM, Load.IMPORT))


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the interceptors, and the objects that they share.

    Attributes:
        call_timeout: maximum seconds of a unary call, even if the deadline of its caller is later.
        stall_timeout: maximum seconds that a stream waits for its client to read or send.
        access_log: whether every call is logged, or only failed calls.
        deadlines: checks the deadlines of calls.
        drain: counts the calls that the server waits for when it shuts down.
        admission: limits concurrent calls.
        unread: limits the responses of unary calls that clients have not read yet.
        authentication: verifies credentials; None: callers are not authenticated.
        audit_log: records changes of users and sessions; None: changes are not recorded.
        metrics: counts calls; None: they are not counted.
        tracing: creates the spans of calls; None: they are not traced.
        read_only: whether calls that write are rejected.
    """

    call_timeout: float
    stall_timeout: float
    access_log: bool
    deadlines: Deadlines
    drain: Drain
    admission: Admission
    unread: UnreadResponses
    authentication: Authentication | None = None
    audit_log: AuditLog | None = None
    metrics: CallMetrics | None = None
    tracing: "CallSpans | None" = None
    read_only: bool = False


class Interceptor(Protocol):
    """A link of the chain: wraps the handler of an RPC, once when the server starts."""

    def __call__(self, handler: Handler[Request], rpc: Rpc, settings: Settings, /) -> Handler[Request]:
        """Returns the handler that calls ``handler``, or ``handler`` itself if the RPC does not need the link."""


def tracking(handler: Handler[Request], rpc: Rpc, settings: Settings) -> Handler[Request]:
    """Counts the running calls that a shutdown waits for."""
    if rpc.load not in _DRAINED:
        return handler
    drain = settings.drain

    async def tracked(call: Call, request: Request) -> bytes:
        drain.enter()
        try:
            return await handler(call, request)
        finally:
            drain.leave()

    return tracked


def call_id(handler: Handler[Request], _rpc: Rpc, _settings: Settings) -> Handler[Request]:
    """Sets the id of the call: the caller's ``x-request-id`` if it is printable ASCII, else a generated id.

    Also takes the credential and the trace context from the headers, because each pass over them takes time.
    """

    async def named(call: Call, request: Request) -> bytes:
        for key, value in call.headers:
            if key == CREDENTIAL_KEY:
                call.credential = value if call.credential is None else b""  # two headers are not a valid credential
            elif key == CALL_ID_KEY and not call.call_id and isinstance(value, str) and _VISIBLE_ASCII.fullmatch(value):
                call.call_id = value
            elif key == HEADER and isinstance(value, str):
                call.trace = parsed(value)
        if not call.call_id:
            call.call_id = f"{_process}-{next(_numbers)}"
        return await handler(call, request)

    return named


def access_log(handler: Handler[Request], rpc: Rpc, settings: Settings) -> Handler[Request]:
    """Logs the result of each call, but no request fields, records or addresses; logs only failed health checks."""
    logs_success = settings.access_log and rpc.load is not Load.PROBE

    async def logged(call: Call, request: Request) -> bytes:
        started = time.perf_counter()
        try:
            response = await handler(call, request)
        except asyncio.CancelledError:
            if call.code is grpc.StatusCode.OK:  # else the call has a status that its client has not read yet
                call.code = grpc.StatusCode.CANCELLED  # by the caller, its deadline, or the end of the grace period
            _log_call(call, started)
            raise
        except BaseException:
            _log_call(call, started)
            raise
        if logs_success:
            _log_call(call, started)
        return response

    return logged


def _log_call(call: Call, started: float) -> None:
    if not access_logger.isEnabledFor(logging.INFO):
        return
    fields = {
        "method": call.rpc.name,
        "code": call.code.name,
        "request_id": call.call_id,
        "duration_ms": round((time.perf_counter() - started) * 1000, 3),
        **call.log_fields,
    }
    if call.trace is not None:
        fields.update(call.trace.log_fields)
    add_line(time.time(), "INFO", access_logger.name, "call", fields)


def errors(handler: Handler[Request], _rpc: Rpc, _settings: Settings) -> Handler[Request]:
    """Maps each failure to a status by the table in status.py; no other detail reaches the caller."""

    async def mapped(call: Call, request: Request) -> bytes:
        try:
            return await handler(call, request)
        except ServiceError as error:
            failure: Exception = error
            if isinstance(error, StoreUnavailableError) and error.__cause__ is not None:
                # Only the type, because the text can contain an address or a password.
                call.log_fields["cause"] = type(error.__cause__).__name__
            elif isinstance(error, RateLimitedError):
                call.log_fields["limit"] = error.limit
        except grpc.aio.AbortError:
            raise  # the call has a status already; a second abort would fail
        except grpc.aio.InternalError:
            # grpc raises this error in a write if the client has disconnected, and would log it as a bug.
            raise asyncio.CancelledError from None
        except ProtocolError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - no text of an exception may reach a caller
            failure = error
            _log_bug(call, error)
        call.code, message, details = encoded_status(failure, call.call_id)
        # Breaks a reference cycle, which would stay in memory until the garbage collector runs: the traceback of the
        # failure refers to this frame, which refers to the failure.
        del failure
        await _abort(call, message, details)
        raise AssertionError("abort raises")

    return mapped


async def _abort(call: Call, message: str, details: bytes) -> None:
    """Ends the call with a status.

    grpc sends the status of a stream after the responses that the client has not read yet. If that takes longer than a
    second, the handler ends as if it were cancelled, which frees its memory, and grpc sends the status later.
    """
    abort = call.context.abort(call.code, message, ((DETAILS_KEY, details),) if details else ())
    if not call.rpc.streams_responses:
        await abort  # a timeout without a limit would take 1 % of the time of a rejected call
    try:
        async with asyncio.timeout(_ABORT_SECONDS):
            await abort
    except TimeoutError:
        raise asyncio.CancelledError from None


def _log_bug(call: Call, error: Exception) -> None:
    # Without the texts of the exception and its causes, which can contain personal data and secrets.
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    fields = {"method": call.rpc.name, "request_id": call.call_id, "exception": type(error).__name__, "frames": frames}
    if call.trace is not None:
        fields.update(call.trace.log_fields)
    error_logger.error("internal error", extra=fields)


def tracing(handler: Handler[Request], rpc: Rpc, settings: Settings) -> Handler[Request]:
    """Records a span for each call whose trace is sampled; also for rejected calls."""
    if settings.tracing is None:
        return handler
    return traced(handler, rpc, settings.tracing)


def metrics(handler: Handler[Request], rpc: Rpc, settings: Settings) -> Handler[Request]:
    """Counts and times all calls, including rejected calls, by method and code."""
    if settings.metrics is None:
        return handler
    return measured(handler, rpc, settings.metrics)


def headers(handler: Handler[Request], rpc: Rpc, _settings: Settings) -> Handler[Request]:
    """Rejects calls with headers above MAX_HEADER_BYTES; channel_options.py sets the higher limit of grpc."""
    if rpc.load in _WITHOUT_HEADER_LIMIT:
        return handler

    async def bounded(call: Call, request: Request) -> bytes:
        size = 0
        for key, value in call.headers:  # a loop, because sum() takes twice as long
            size += len(key) + len(value) + _HEADER_OVERHEAD
        if size > MAX_HEADER_BYTES:
            description = f"must be at most {MAX_HEADER_BYTES} bytes (key + value + {_HEADER_OVERHEAD} each), is {size}"
            raise InvalidFieldsError([Violation("headers", description)])
        return await handler(call, request)

    return bounded


def authentication(handler: Handler[Request], rpc: Rpc, settings: Settings) -> Handler[Request]:
    """Rejects calls without a valid credential, without the required scope, or above the limits of the credential."""
    scope = required_scope(rpc)  # checked also with --auth none: a method without a scope must prevent the start
    gate = settings.authentication
    if gate is None or scope is None:
        return handler

    async def authenticated(call: Call, request: Request) -> bytes:
        caller = gate.known_caller_of(call) or await gate.caller_of(call)
        check_scope(caller, scope)
        caller.take_call()
        return await handler(call, request)

    async def authenticated_stream(call: Call, request: Request) -> bytes:
        caller = await gate.caller_of(call)
        check_scope(caller, scope)
        caller.take_call()
        call.scopes = caller.scopes
        with gate.stream_of(call, caller, scope):
            return await handler(call, request)

    return authenticated_stream if rpc.is_stream else authenticated


def read_only(handler: Handler[Request], rpc: Rpc, settings: Settings) -> Handler[Request]:
    """Rejects calls that write, if the server is read-only."""
    if not settings.read_only or required_scope(rpc) not in _WRITING:
        return handler

    async def rejected(_call: Call, _request: Request) -> bytes:
        raise StoreUnavailableError("the server is read-only; nothing was changed")

    return rejected


def admission(handler: Handler[Request], rpc: Rpc, settings: Settings) -> Handler[Request]:
    """Rejects calls that exceed a limit of admission.py, before any other work is done for them."""
    for budget in reversed(settings.admission.budgets(rpc.load)):
        handler = _admitted(handler, budget)
    return handler


def _admitted(handler: Handler[Request], budget: Budget) -> Handler[Request]:
    async def admitted(call: Call, request: Request) -> bytes:
        try:
            connection = budget.take(call.context)
        except OverloadedError as error:
            call.log_fields["limit"] = error.limit
            raise
        try:
            return await handler(call, request)
        finally:
            budget.give_back(connection)

    return admitted


def deadline(handler: Handler[Request], rpc: Rpc, settings: Settings) -> Handler[Request]:
    """Ends unary calls that take too long. If the deadline of the caller is earlier, grpc cancels the call."""
    if rpc.is_stream:
        return handler

    async def limited(call: Call, request: Request) -> bytes:
        remaining = call.context.time_remaining()
        if remaining is not None and remaining <= settings.call_timeout:
            return await handler(call, request)
        try:
            with Deadline(settings.deadlines, settings.call_timeout):
                return await handler(call, request)
        except DeadlinePassedError as error:
            raise DeadlineExceededError(f"the call took longer than {settings.call_timeout:g} s") from error

    return limited


CHAIN: tuple[Interceptor, ...] = (
    tracking,  # outermost: a call runs until its response is sent and logged, also if it is rejected
    call_id,  # before the interceptors that use the id
    access_log,  # outside errors, so that it logs the code that the caller receives
    errors,  # outside the interceptors that can fail
    tracing,  # inside errors and outside the interceptors that reject calls, for the same reasons as metrics
    metrics,  # inside errors, which sends the status of a failed call; outside the interceptors that reject calls
    headers,  # before admission: a retry of such a call would be rejected again
    authentication,  # before admission: rejected calls do not count against the concurrency limits
    read_only,  # after authentication: a caller without a valid credential gets no other information
    admission,  # before any work, but inside errors, so that a rejection becomes a status
    deadline,  # innermost: its failure becomes a status like any other
)


def intercepted(handler: Handler[Request], rpc: Rpc, settings: Settings) -> Handler[Request]:
    """Returns the handler of an RPC with all interceptors around it."""
    for interceptor in reversed(CHAIN):
        handler = interceptor(handler, rpc, settings)
    return handler
