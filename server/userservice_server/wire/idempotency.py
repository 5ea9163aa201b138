"""The layout of an idempotency record: the fingerprint of the request, then the outcome of the write."""

from functools import cache
from hashlib import blake2b

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from userservice_server.wire.varint import read_varint, varint

FINGERPRINT_BYTES = 16
TTL_SECONDS = 600  # the API promises 10 minutes

_REQUEST_ID = "request_id"
_LENGTH_DELIMITED = 2  # the wire type


def fingerprint(request: Message) -> bytes:
    """Digests the type and the content of a request, without its request_id; does not change the request."""
    # Deterministic: a client may send the entries of a Struct in another order when it repeats the request.
    encoded = request.SerializeToString(deterministic=True)
    digest, tag = _start(request.DESCRIPTOR)
    digest = digest.copy()
    own = _encoded_request_id(request, tag)
    if encoded.endswith(own):  # the usual case: no field with a larger number is present
        digest.update(encoded[: -len(own)])
    else:  # other fields follow
        start, end = _request_id_span(encoded, tag)
        digest.update(encoded[:start])
        digest.update(encoded[end:])
    return digest.digest()


@cache
def _start(kind: Descriptor) -> "tuple[blake2b, int]":
    """Returns the digest of the type of a request, and the tag of its request_id."""
    name = kind.full_name.encode() + b"\0"
    number: int = kind.fields_by_name[_REQUEST_ID].number
    return blake2b(name, digest_size=FINGERPRINT_BYTES), number << 3 | _LENGTH_DELIMITED


def _encoded_request_id(request: Message, tag: int) -> bytes:
    request_id: bytes = getattr(request, _REQUEST_ID).encode()
    return bytes((tag,)) + varint(len(request_id)) + request_id


def _request_id_span(encoded: bytes, tag: int) -> tuple[int, int]:
    """Returns where the field request_id starts and ends in an encoded request that ends with other fields.

    Known fields are encoded in the order of their numbers; request_id and all fields before it are length-delimited and
    have a tag of one byte.
    """
    position = 0
    while position < len(encoded):
        length, content = read_varint(encoded, position + 1)
        if encoded[position] == tag:
            return position, content + length
        position = content + length
    return position, position
