"""request_ids: how a repeated request is told from another one that took its id."""

from hashlib import blake2b

from google.protobuf.message import Message

from userservice_server.domain.validation import Checker
from userservice_server.store.redis_store import NO_ATTEMPT, Attempt


def attempt_of(check: Checker, request: Message, request_id: str) -> Attempt:
    """Checks the request_id and digests the rest of the request, from which the request_id is removed."""
    request_id = check.request_id(request_id)
    if not request_id:
        return NO_ATTEMPT
    request.ClearField("request_id")
    # Deterministic: the entries of a Struct may come in another order when a client sends them again.
    content = request.DESCRIPTOR.full_name.encode() + b"\0" + request.SerializeToString(deterministic=True)
    return Attempt(request_id, blake2b(content, digest_size=16).digest())
