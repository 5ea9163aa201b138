"""Encodes violations as a google.rpc.BadRequest, because an outcome in the store can contain violations."""

from collections.abc import Iterable

from google.rpc.error_details_pb2 import BadRequest

from userservice_server.errors import Violation
from userservice_server.wire.records import FRAME_TAG


def bad_request(violations: Iterable[Violation]) -> BadRequest:
    """Returns the error detail that lists the violations."""
    found = (BadRequest.FieldViolation(field=each.field, description=each.description) for each in violations)
    return BadRequest(field_violations=found)


def decode_violations(payload: bytes) -> list[Violation]:
    """Decodes violations from the payload of an outcome."""
    # Violations are field 1 of a BadRequest. In the old format, the name of a field comes first, never this tag.
    if not payload.startswith(FRAME_TAG):
        return _decode_lines(payload)
    return [Violation(each.field, each.description) for each in BadRequest.FromString(payload).field_violations]


def _decode_lines(payload: bytes) -> list[Violation]:
    """Decodes the format of the first release; its idempotency records exist for 10 minutes after an upgrade."""
    return [Violation(*line.split("\t", 1)) for line in payload.decode().splitlines()]
