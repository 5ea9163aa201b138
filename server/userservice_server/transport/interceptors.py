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
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from google.rpc.status_pb2 import Status

from userservice_server.errors import DeadlineExceededError, OverloadedError, ServiceError, StoreUnavailableError
from userservice_server.logs import add_line
from userservice_server.transport.call import Call, Handler
from userservice_server.transport.limits import Limit, Limits, TimeIsUpError
from userservice_server.transport.status import DETAILS_KEY, status_of

access_logger = logging.getLogger("userservice.access")
error_logger = logging.getLogger("userservice.errors")

REQUEST_ID_KEY = "x-request-id"
_ABORT_SECONDS = 1.0
_VISIBLE_ASCII = re.compile(r"[!-~]{1,128}", re.ASCII)
_process = secrets.token_hex(6)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the interceptors need to know.

    Attributes:
        call_timeout: seconds that a unary call may take at the most, whatever its caller allows.
        access_log: whether every call is logged, or only those that fail.
        limits: watches the time of calls.
    """

    call_timeout: float
    access_log: bool
    limits: Limits


Interceptor = Callable[[Handler, Settings], Handler]


def request_id(handler: Handler, _settings: Settings) -> Handler:
    """Names the call: by the caller's ``x-request-id`` if that is fit for a log line, else by a number."""

    async def named(call: Call, request: bytes) -> bytes:
        for key, value in call.context.invocation_metadata() or ():
            if key == REQUEST_ID_KEY and isinstance(value, str) and _VISIBLE_ASCII.fullmatch(value):
                call.request_id = value
                break
        else:
            call.request_id = f"{_process}-{next(_numbers)}"
        return await handler(call, request)

    return named


def access_log(handler: Handler, settings: Settings) -> Handler:
    """Logs how each call ended: no field of a request or a record, no address."""

    async def logged(call: Call, request: bytes) -> bytes:
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
        if settings.access_log:
            _log_call(call, started)
        return response

    return logged


def _log_call(call: Call, started: float) -> None:
    if not access_logger.isEnabledFor(logging.INFO):
        return
    fields = {
        "method": call.method,
        "code": call.code.name,
        "request_id": call.request_id,
        "duration_ms": round((time.perf_counter() - started) * 1000, 3),
        **call.log_fields,
    }
    add_line(time.time(), "INFO", access_logger.name, "call", fields)


def errors(handler: Handler, _settings: Settings) -> Handler:
    """Tells the caller of every failure by the table in status.py, and nothing else of it."""

    async def told(call: Call, request: bytes) -> bytes:
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
        call.code, status = status_of(failure, call.request_id)
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
        async with asyncio.timeout(_ABORT_SECONDS if call.is_stream else None):
            await call.context.abort(call.code, status.message, ((DETAILS_KEY, status.SerializeToString()),))
    except TimeoutError:
        raise asyncio.CancelledError from None


def _log_bug(call: Call, error: Exception) -> None:
    # Where, not what: the text of an exception, and of those it came from, can hold anything.
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    fields = {"method": call.method, "request_id": call.request_id, "exception": type(error).__name__, "frames": frames}
    error_logger.error("bug", extra=fields)


def admission(handler: Handler, _settings: Settings) -> Handler:
    """Refuses a call that is one too many, before anything is done for it; drain.py counts."""

    async def admitted(call: Call, request: bytes) -> bytes:
        if call.refused_for is not None:
            raise OverloadedError("the server runs as many calls as it takes on; try again later", call.refused_for)
        return await handler(call, request)

    return admitted


def deadline(handler: Handler, settings: Settings) -> Handler:
    """Ends a unary call that takes too long. A caller's own, earlier deadline is held by grpc, which cancels."""

    async def limited(call: Call, request: bytes) -> bytes:
        remaining = call.context.time_remaining()
        if call.is_stream or (remaining is not None and remaining <= settings.call_timeout):
            return await handler(call, request)
        try:
            with Limit(settings.limits, settings.call_timeout):
                return await handler(call, request)
        except TimeIsUpError as error:
            raise DeadlineExceededError(f"the call took longer than {settings.call_timeout:g} s") from error

    return limited


# Around all of it is Drain.track (handlers.py), which counts the call and sets what admission refuses by.
CHAIN: tuple[Interceptor, ...] = (
    request_id,  # first: everything after it speaks of the call by this name
    access_log,  # outside errors, so that it sees the code that the caller sees
    errors,  # outside all that may fail
    admission,  # as early as its refusal can be told
    deadline,  # innermost: its failure is told like any other
)


def intercepted(handler: Handler, settings: Settings) -> Handler:
    """Puts the chain around a handler."""
    for interceptor in reversed(CHAIN):
        handler = interceptor(handler, settings)
    return handler
