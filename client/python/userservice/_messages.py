"""Twins of the generated messages in which the metadata of users and sessions stays encoded.

To the wire a message field and a bytes field are the same: a length and that many bytes. So a twin whose metadata is
declared `bytes` reads what the service sends, and protobuf keeps one byte string where it would otherwise build a tree
of objects for each user, which takes most of the time of decoding a chunk.

The twins are made from the generated descriptors and live in a descriptor pool of their own; they cannot drift apart
from the protos, and nobody else sees them.
"""

from __future__ import annotations

from typing import TypeVar, cast

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from userservice.v1 import session_service_pb2, user_service_pb2

MessageT = TypeVar("MessageT", bound="Message")

_LAZY_FIELDS = frozenset({("User", "metadata"), ("Session", "metadata")})
_STRUCT = ".google.protobuf.Struct"


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    seen: set[str] = set()
    for service in (user_service_pb2, session_service_pb2):
        _add(pool, service.DESCRIPTOR, seen)
    return pool


def _add(pool: DescriptorPool, file: FileDescriptor, seen: set[str]) -> None:
    if file.name in seen:
        return
    seen.add(file.name)
    for dependency in file.dependencies:
        _add(pool, dependency, seen)
    twin = FileDescriptorProto()
    file.CopyToProto(twin)
    for message in twin.message_type:
        for field in message.field:
            if (message.name, field.name) in _LAZY_FIELDS:
                _keep_encoded(field)
    pool.Add(twin)


def _keep_encoded(field: FieldDescriptorProto) -> None:
    if field.type_name != _STRUCT or field.label == FieldDescriptorProto.LABEL_REPEATED:
        raise TypeError(f"{field.name} is no longer a single google.protobuf.Struct; its twin must be thought over")
    field.ClearField("type_name")
    field.type = FieldDescriptorProto.TYPE_BYTES


_POOL = _pool()


def lazy_class(generated: type[MessageT]) -> type[MessageT]:
    """Returns the twin of a generated message class.

    It is typed as the generated class, and is one in all but this: the metadata of a user or session in it is `bytes`.

    Raises:
        KeyError: If the class is not one of the service's messages.
    """
    return cast("type[MessageT]", GetMessageClass(_POOL.FindMessageTypeByName(generated.DESCRIPTOR.full_name)))
