"""Adds a line to the audit log for each write that changed a user or session, or may have changed it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from google.protobuf.message import Message

from userservice_server.errors import DeadlineExceededError, ServiceError, StoreUnavailableError
from userservice_server.observability.audit_log import AuditLog
from userservice_server.transport.call import Call

_UNCERTAIN = (StoreUnavailableError, DeadlineExceededError)  # the store may have applied the write
_FIELDS = ("user_id", "session_id")


@contextmanager
def recorded(audit_log: AuditLog, call: Call, request: Message) -> Iterator[None]:
    """Records the write in the ``with`` block. A rejected write changed nothing and is not recorded."""
    outcome = "unknown"
    try:
        yield
        outcome = "applied"
    except ServiceError as error:
        if not isinstance(error, _UNCERTAIN):
            outcome = ""
        raise
    finally:
        if outcome:
            audit_log.add(_line(call, request, outcome))


@contextmanager
def recorded_stream(audit_log: AuditLog, call: Call) -> Iterator[None]:
    """Records what the stream in the ``with`` block has written, if it has written anything."""
    outcome = "applied"
    try:
        yield
    except (*_UNCERTAIN, asyncio.CancelledError):
        outcome = "unknown"  # the last batch may be applied
        raise
    finally:
        if call.audited:
            line = {"method": call.rpc.name, "outcome": outcome, **_caller(call), **call.audited}
            audit_log.add(line | {"request_id": call.call_id})


def _caller(call: Call) -> dict[str, Any]:
    return {name: call.log_fields[name] for name in ("credential", "caller") if name in call.log_fields}


def _line(call: Call, request: Message, outcome: str) -> dict[str, Any]:
    line: dict[str, Any] = {"method": call.rpc.name, "outcome": outcome}
    line |= _caller(call)
    line |= {name: getattr(request, name) for name in _FIELDS if name in request.DESCRIPTOR.fields_by_name}
    return line | {"request_id": call.call_id}
