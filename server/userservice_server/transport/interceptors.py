"""What every call passes through on its way to its handler, outermost first. The order is the point: see CHAIN.

The chain is put together once for each RPC when the server starts, not looked up for each call as grpc's own
ServerInterceptors are.
"""

import asyncio
import itertools
import logging
import re
import secrets
import time
import traceback
from dataclasses import dataclass
from typing import Protocol

import grpc
from google.rpc.status_pb2 import Status

from userservice_server.errors import (
    DeadlineExceededError,
    InvalidFieldsError,
    OverloadedError,
    ServiceError,
    StoreUnavailableError,
    Violation,
)
from userservice_server.observability.log_writer import add_line
from userservice_server.transport.admission import Admission, Budget
from userservice_server.transport.call import Call, Handler, Load, Request, Rpc
from userservice_server.transport.channel_options import MAX_HEADER_BYTES
from userservice_server.transport.deadlines import Deadline, DeadlinePassedError, Deadlines
from userservice_server.transport.drain import Drain
from userservice_server.transport.status import DETAILS_KEY, status_of
from userservice_server.transport.unread import UnreadResponses

access_logger = logging.getLogger("userservice.access")
error_logger = logging.getLogger("userservice.errors")

CALL_ID_KEY = "x-request-id"
_HEADER_OVERHEAD = 32  # per header, as HTTP/2 counts in SETTINGS_MAX_HEADER_LIST_SIZE
_ABORT_SECONDS = 1.0
_VISIBLE_ASCII = re.compile(r"[!-~]{1,128}", re.ASCII)
_process = secrets.token_hex(6)
_numbers = itertools.count(1)
_WITHOUT_HEADER_LIMIT = frozenset((Load.PROBE, Load.WATCH))  # a probe must not fail because a proxy adds headers
_DRAINED = frozenset((Load.CALL, Load.STREAM))  # the others have no end of their own, or are repeated soon anyway


@dataclass(frozen=True, slots=True)
class Settings:
    """What the interceptors need to know.

    Attributes:
        call_timeout: seconds that a unary call may take at the most, whatever its caller allows.
        stall_timeout: seconds that the other side of a stream may keep it waiting.
        access_log: whether every call is logged, or only those that fail.
        deadlines: checks the deadlines of calls.
        drain: counts the calls that the server waits for when it shuts down.
        admission: limits the calls that run at once.
        unread: limits the responses of unary calls that are not read yet.
    """

    call_timeout: float
    stall_timeout: float
    access_log: bool
    deadlines: Deadlines
    drain: Drain
    admission: Admission
    unread: UnreadResponses


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
    """Gives the call its id: the caller's ``x-request-id`` if that is fit for a log line, else a number."""

    async def named(call: Call, request: Request) -> bytes:
        for key, value in call.headers:
            if key == CALL_ID_KEY and isinstance(value, str) and _VISIBLE_ASCII.fullmatch(value):
                call.call_id = value
                break
        else:
            call.call_id = f"{_process}-{next(_numbers)}"
        return await handler(call, request)

    return named


def access_log(handler: Handler[Request], rpc: Rpc, settings: Settings) -> Handler[Request]:
    """Logs how each call ended: no field of a request or a record, no address. Of health checks, logs failures only."""
    logs_success = settings.access_log and rpc.load is not Load.PROBE

    async def logged(call: Call, request: Request) -> bytes:
        started = time.perf_counter()
        try:
            response = await handler(call, request)
        except asyncio.CancelledError:
            if call.code is grpc.StatusCode.OK:  # else it was ended with a status that its reader has yet to take
                call.code = grpc.StatusCode.CANCELLED  # by the caller, its deadline, or the end of the grace time
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
    add_line(time.time(), "INFO", access_logger.name, "call", fields)


def errors(handler: Handler[Request], _rpc: Rpc, _settings: Settings) -> Handler[Request]:
    """Tells the caller of every failure by the table in status.py, and nothing else of it."""

    async def told(call: Call, request: Request) -> bytes:
        try:
            return await handler(call, request)
        except ServiceError as error:
            failure: Exception = error
            if isinstance(error, StoreUnavailableError) and error.__cause__ is not None:
                # The type alone: the text of a connection's error can hold an address or a password.
                call.log_fields["cause"] = type(error.__cause__).__name__
        except grpc.aio.AbortError:
            raise  # decided already: a second abort would fail
        except grpc.aio.InternalError:
            # How grpc tells a handler that writes that the caller has gone. Raised on, grpc would log it as a bug.
            raise asyncio.CancelledError from None
        except Exception as error:  # noqa: BLE001 - that is its task: no other text may reach a caller
            failure = error
            _log_bug(call, error)
        call.code, status = status_of(failure, call.call_id)
        # Its traceback holds the frames that hold the request, and this frame holds it: a cycle, which would stay
        # in memory until the garbage collector runs.
        del failure
        await _abort(call, status)
        raise AssertionError("abort raises")

    return told


async def _abort(call: Call, status: Status) -> None:
    """Ends the call with a status.

    The status of a stream waits in line behind what its reader has not taken. It is sent as soon as the reader does,
    but nothing of the server's need be kept until then, so the handler ends as if cancelled.
    """
    try:
        async with asyncio.timeout(_ABORT_SECONDS if call.rpc.streams_responses else None):
            await call.context.abort(call.code, status.message, ((DETAILS_KEY, status.SerializeToString()),))
    except TimeoutError:
        raise asyncio.CancelledError from None


def _log_bug(call: Call, error: Exception) -> None:
    # Where, not what: the text of an exception, and of those it came from, can hold anything.
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    fields = {"method": call.rpc.name, "request_id": call.call_id, "exception": type(error).__name__, "frames": frames}
    error_logger.error("bug", extra=fields)


def headers(handler: Handler[Request], rpc: Rpc, _settings: Settings) -> Handler[Request]:
    """Rejects a call with too large headers, at one fixed size; see channel_options.py for grpc's own limit."""
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


def admission(handler: Handler[Request], rpc: Rpc, settings: Settings) -> Handler[Request]:
    """Rejects a call that exceeds a limit of admission.py, before anything is done for it."""
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
    """Ends a unary call that takes too long. A caller's own, earlier deadline is held by grpc, which cancels."""
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
    tracking,  # outermost: a call runs until it has been answered and logged, also if it is rejected
    call_id,  # before all that refers to the call by its id
    access_log,  # outside errors, so that it sees the code that the caller sees
    errors,  # outside all that may fail
    headers,  # before admission: a retry of such a call would be rejected again
    admission,  # as early as its rejection becomes a status
    deadline,  # innermost: its failure becomes a status like any other
)


def intercepted(handler: Handler[Request], rpc: Rpc, settings: Settings) -> Handler[Request]:
    """Puts the chain around the handler of an RPC."""
    for interceptor in reversed(CHAIN):
        handler = interceptor(handler, rpc, settings)
    return handler
