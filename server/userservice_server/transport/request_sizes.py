"""The maximum size of the requests of each RPC, derived from the limits of their fields.

A request above its limit is rejected before it is decoded: decoding can take a hundred times the memory of the encoded
request, and it delays all other calls of the process.
"""

from google.protobuf.descriptor import Descriptor

from userservice_server.domain import metadata, validation
from userservice_server.domain.filter_parser import MAX_BYTES
from userservice_server.wire.imports import MAX_BATCH_BYTES
from userservice_server.wire.watch_tokens import MAX_TOKEN_BYTES

_KEY_BYTES = 2  # the tag of a field, and room for an encoder that does not write the shortest form
_LENGTH_BYTES = 5
_VARINT_BYTES = 10
_MASK_PATHS = 16  # an update_mask has at most four different paths; some clients repeat them
_MASK_PATH_BYTES = 32
_ETAG_BYTES = 64  # an etag has 12 bytes; a longer etag is valid but matches nothing

_TIME_BYTES = 2 * (_KEY_BYTES + _VARINT_BYTES)  # seconds and nanoseconds
_ORDER_BYTES = 16  # "id desc", and some white space

# The maximum size of each field, without tag and length. A field name means the same in all requests.
_FIELD_BYTES = {
    "user_id": validation.MAX_KEY_BYTES,
    "session_id": validation.MAX_KEY_BYTES,
    "email": validation.MAX_EMAIL_BYTES,
    "emails": validation.MAX_EMAIL_BYTES,
    "first_name": validation.MAX_PERSON_NAME_BYTES,
    "last_name": validation.MAX_PERSON_NAME_BYTES,
    "metadata": metadata.MAX_BYTES,
    "update_mask": _MASK_PATHS * (_MASK_PATH_BYTES + _KEY_BYTES + _LENGTH_BYTES),
    "etag": _ETAG_BYTES,
    "request_id": validation.REQUEST_ID_BYTES,
    "user_ids": validation.MAX_KEY_BYTES,
    "limit": _VARINT_BYTES,
    "chunk_size": _VARINT_BYTES,
    "cursor": _VARINT_BYTES,
    "parts": _VARINT_BYTES,
    "partition": _VARINT_BYTES,
    "end_cursor": _VARINT_BYTES,
    "view": _VARINT_BYTES,
    "order_by": _ORDER_BYTES,
    "filter": MAX_BYTES,
    "allow_missing": _VARINT_BYTES,
    "import_id": validation.REQUEST_ID_BYTES,
    "include_expired": _VARINT_BYTES,
    "expire_time": _TIME_BYTES,
    "ttl": _TIME_BYTES,
    "idle_ttl": _TIME_BYTES,
    "except_session_id": validation.MAX_KEY_BYTES,
    "now": _VARINT_BYTES,
    "snapshot": _VARINT_BYTES,
    "resume_token": MAX_TOKEN_BYTES,
    "kinds": _VARINT_BYTES,
    "heartbeat_seconds": _VARINT_BYTES,
}
_MOST_ELEMENTS = {"user_ids": validation.MAX_BATCH, "emails": validation.MAX_BATCH, "kinds": _MASK_PATHS}

# The error for a field that is too long contains its name and limit, so the request must be decoded. The limit is
# therefore twice the largest valid request, plus room for one field that is much too long in a small request.
_ROOM_FACTOR = 2
_ROOM_BYTES = 8 << 10

_IMPORT = "ImportUsersRequest"
_OUR_PACKAGE = "userservice.v1"
STANDARD_REQUEST_BYTES = 64 << 10  # requests of health and reflection contain only names


def largest_valid(request: Descriptor) -> int:
    """Returns the bytes of the largest valid request of a type, and a little more.

    Raises:
        KeyError: the limit of one of its fields is not known here.
    """
    return sum(
        _MOST_ELEMENTS.get(field.name, 1) * (_KEY_BYTES + _LENGTH_BYTES + _FIELD_BYTES[field.name])
        for field in request.fields
    )


def most_bytes(request: Descriptor) -> int:
    """Returns the size in bytes above which a request of a type is rejected without being decoded."""
    if request.file.package != _OUR_PACKAGE:
        return STANDARD_REQUEST_BYTES
    if request.name == _IMPORT:
        return MAX_BATCH_BYTES  # the limit of a batch, whatever its rows contain
    return _ROOM_FACTOR * largest_valid(request) + _ROOM_BYTES
