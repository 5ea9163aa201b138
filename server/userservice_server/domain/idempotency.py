"""Idempotency keys: how the service recognizes a repeated request."""

from google.protobuf.message import Message

from userservice_server.domain.ports import NO_IDEMPOTENCY_KEY, IdempotencyKey
from userservice_server.domain.validation import Checker
from userservice_server.wire.idempotency import fingerprint


def idempotency_key_of(check: Checker, request: Message, request_id: str) -> IdempotencyKey:
    """Checks the request_id of a request and returns the request's idempotency key."""
    request_id = check.request_id(request_id)
    return IdempotencyKey(request_id, fingerprint(request)) if request_id else NO_IDEMPOTENCY_KEY
