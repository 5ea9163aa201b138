"""The messages of imports, and the encoding of row errors.

The server decodes the rows of a batch one by one, so that one invalid row fails alone, and so that the event loop can
serve other calls between two rows. The class ``ImportUsersRequest`` of this module therefore keeps the users encoded:
a message field and a bytes field have the same encoding.
"""

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import DESCRIPTOR as STRUCT_FILE
from google.protobuf.struct_pb2 import Struct

from userservice.v1.user_import_pb2 import DESCRIPTOR as IMPORT_FILE
from userservice.v1.user_import_pb2 import (
    ImportBatch,
    ImportOptions,
    ImportUsersRequest,
    ImportUsersResponse,
    OnDuplicate,
    RowError,
)
from userservice.v1.user_pb2 import User
from userservice_server.wire.varint import read_varint, varint

TTL_SECONDS = 7 * 24 * 3600  # the API promises 7 days after the last batch
MAX_ROW_ERRORS = 10_000  # of an import, in the store
MAX_BATCH_ROWS = 500
MAX_BATCH_BYTES = 1 << 20

ROW_ERRORS_TAG = bytes([ImportUsersResponse.DESCRIPTOR.fields_by_name["row_errors"].number << 3 | 2])
INDEX_TAG = bytes([RowError.DESCRIPTOR.fields_by_name["index"].number << 3])
_STATUS_TAG = bytes([RowError.DESCRIPTOR.fields_by_name["status"].number << 3 | 2])

_PACKAGE = IMPORT_FILE.package
_CALLERS_FIELDS = ("user_id", "email", "first_name", "last_name", "metadata")


def status_field(encoded_status: bytes) -> bytes:
    """Encodes the field ``status`` of a RowError."""
    return _STATUS_TAG + varint(len(encoded_status)) + encoded_status


def framed_row_error(index: int, encoded_status_field: bytes) -> bytes:
    """Encodes a RowError as an element of the field ``row_errors`` of a response."""
    body = INDEX_TAG + varint(index) + encoded_status_field
    return ROW_ERRORS_TAG + varint(len(body)) + body


def index_in(framed: bytes) -> int:
    """Returns the index of a RowError that ``framed_row_error`` or the import script has encoded."""
    _, body = read_varint(framed, len(ROW_ERRORS_TAG))
    return read_varint(framed, body + len(INDEX_TAG))[0]


def _file(source: FileDescriptor) -> FileDescriptorProto:
    proto = FileDescriptorProto()
    source.CopyToProto(proto)
    return proto


def _message(source: type[Message]) -> DescriptorProto:
    proto = DescriptorProto()
    source.DESCRIPTOR.CopyToProto(proto)
    return proto


def _pool() -> DescriptorPool:
    """Returns the descriptors of ImportUsersRequest with encoded users, and of a User with the callers' fields only."""
    twin = FileDescriptorProto(name="userservice_server/import.proto", package=_PACKAGE, syntax="proto3")
    twin.dependency.append(STRUCT_FILE.name)
    OnDuplicate.DESCRIPTOR.CopyToProto(twin.enum_type.add())
    for source in (ImportOptions, ImportBatch, ImportUsersRequest, User):
        twin.message_type.append(_message(source))
    batch, user = twin.message_type[1], twin.message_type[3]
    for field in batch.field:
        if field.name == "users":
            field.ClearField("type_name")
            field.type = FieldDescriptorProto.TYPE_BYTES
    kept = [field for field in user.field if field.name in _CALLERS_FIELDS]
    del user.field[:]
    user.field.extend(kept)
    pool = DescriptorPool()
    pool.Add(_file(STRUCT_FILE))
    pool.Add(twin)
    return pool


_POOL = _pool()

EncodedUsersRequest: type[Message] = GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.ImportUsersRequest"))
"""ImportUsersRequest in which each user is encoded bytes."""

CallersUser: type[Message] = GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.User"))
"""User with only the fields that callers set. The other fields of an encoded user are unknown to this class."""


def metadata_of(user: Message) -> Struct:
    """Returns the metadata of a CallersUser. Its class is not Struct, but has the same fields."""
    metadata: Struct = user.metadata  # type: ignore[attr-defined]  # the class is made at run time
    return metadata
