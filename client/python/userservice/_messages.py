"""Message classes in which the metadata of users and sessions stays encoded.

A message field and a bytes field have the same encoding: a length and the bytes. Therefore a message class whose
metadata is declared as `bytes` can decode the service's responses. Protobuf then keeps one byte string for each user.
With the generated classes, protobuf builds a tree of objects, which takes most of the time needed to decode a chunk.

The message classes of this module are created from the generated descriptors, so they always match the protos. They are
in a separate descriptor pool, so they do not conflict with the generated classes.
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
        raise TypeError(f"{field.name} is not a single google.protobuf.Struct, so it cannot be declared as bytes")
    field.ClearField("type_name")
    field.type = FieldDescriptorProto.TYPE_BYTES


_POOL = _pool()


def lazy_class(generated: type[MessageT]) -> type[MessageT]:
    """Returns the class that corresponds to a generated message class, but keeps metadata encoded.

    The returned class has the type of the generated class, but the metadata of its users and sessions is `bytes`.

    Raises:
        KeyError: If the class is not one of the service's messages.
    """
    return cast("type[MessageT]", GetMessageClass(_POOL.FindMessageTypeByName(generated.DESCRIPTOR.full_name)))
