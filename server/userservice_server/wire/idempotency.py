"""The layout of an idempotency record: the fingerprint of the request, then the outcome of the write."""

from hashlib import blake2b

from google.protobuf.message import Message

from userservice_server.wire.varint import read_varint

FINGERPRINT_BYTES = 16
TTL_SECONDS = 600  # the API promises 10 minutes

_REQUEST_ID = "request_id"
_LENGTH_DELIMITED = 2  # the wire type


def fingerprint(request: Message) -> bytes:
    """Digests the type and the content of a request, without its request_id; does not change the request."""
    # Deterministic: a client may send the entries of a Struct in another order when it repeats the request.
    encoded = request.SerializeToString(deterministic=True)
    start, end = _request_id_span(request, encoded)
    digest = blake2b(request.DESCRIPTOR.full_name.encode() + b"\0", digest_size=FINGERPRINT_BYTES)
    digest.update(encoded[:start])
    digest.update(encoded[end:])
    return digest.digest()


def _request_id_span(request: Message, encoded: bytes) -> tuple[int, int]:
    """Returns where the field request_id starts and ends in an encoded request.

    Skipping these bytes is faster than clearing the field in a copy, which takes as long as encoding. Known fields are
    encoded in the order of their numbers; request_id and all fields before it are length-delimited and have a tag of
    one byte.
    """
    tag = request.DESCRIPTOR.fields_by_name[_REQUEST_ID].number << 3 | _LENGTH_DELIMITED
    position = 0
    while position < len(encoded):
        length, content = read_varint(encoded, position + 1)
        if encoded[position] == tag:
            return position, content + length
        position = content + length
    return position, position
