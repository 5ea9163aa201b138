"""Descriptors of all services of the server (its own, health, reflection) and of the error details.

They are in a separate pool, because the default pool already contains health.proto of the installed package, which can
be older than Health/List. Reflection returns only descriptors of this pool.
"""

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from userservice.v1 import error_reason_pb2, session_service_pb2, user_service_pb2


def _proto(file: FileDescriptor) -> FileDescriptorProto:
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    return proto


def _reflection_v1(proto: FileDescriptorProto) -> FileDescriptorProto:
    """Makes reflection v1 from v1alpha, which differs only in the name of the package."""
    prefixes = f".{proto.package}.", ".grpc.reflection.v1."
    proto.package = "grpc.reflection.v1"
    proto.name = "grpc/reflection/v1/reflection.proto"
    for message in proto.message_type:
        for field in message.field:
            if field.HasField("type_name"):
                field.type_name = field.type_name.replace(*prefixes)
    for service in proto.service:
        for method in service.method:
            method.input_type = method.input_type.replace(*prefixes)
            method.output_type = method.output_type.replace(*prefixes)
    return proto


def _with_list(health: FileDescriptorProto) -> FileDescriptorProto:
    """Adds Health/List (gRFC A90) if the installed health.proto does not define it."""
    [service] = health.service
    if any(method.name == "List" for method in service.method):
        return health
    package = f".{health.package}"
    health.message_type.add(name="HealthListRequest")
    response = health.message_type.add(name="HealthListResponse")
    response.field.add(
        name="statuses",
        number=1,
        label=FieldDescriptorProto.LABEL_REPEATED,
        type=FieldDescriptorProto.TYPE_MESSAGE,
        type_name=f"{package}.HealthListResponse.StatusesEntry",
        json_name="statuses",
    )
    entry = response.nested_type.add(name="StatusesEntry")
    entry.options.map_entry = True
    one = FieldDescriptorProto.LABEL_OPTIONAL
    entry.field.add(name="key", number=1, label=one, type=FieldDescriptorProto.TYPE_STRING, json_name="key")
    entry.field.add(
        name="value",
        number=2,
        label=one,
        type=FieldDescriptorProto.TYPE_MESSAGE,
        type_name=f"{package}.HealthCheckResponse",
        json_name="value",
    )
    service.method.add(
        name="List", input_type=f"{package}.HealthListRequest", output_type=f"{package}.HealthListResponse"
    )
    return health


def _with_details(service: FileDescriptorProto) -> FileDescriptorProto:
    """Adds imports of the error details to a file of services.

    No field refers to these messages, because a status contains them as Any, but clients such as grpcui look up only
    the files of the services and their imports.
    """
    service.dependency.extend((error_details_pb2.DESCRIPTOR.name, error_reason_pb2.DESCRIPTOR.name))
    return service


def _add(pool: DescriptorPool, proto: FileDescriptorProto, added: set[str]) -> None:
    """Adds a file to the pool after the files that it imports; adds each file only once."""
    if proto.name in added:
        return
    added.add(proto.name)
    for imported in proto.dependency:
        _add(pool, _proto(descriptor_pool.Default().FindFileByName(imported)), added)
    pool.AddSerializedFile(proto.SerializeToString())


def _pool() -> DescriptorPool:
    pool, added = DescriptorPool(), set[str]()
    v1alpha, health = reflection_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR
    for proto in (
        _with_details(_proto(user_service_pb2.DESCRIPTOR)),
        _with_details(_proto(session_service_pb2.DESCRIPTOR)),
        _proto(status_pb2.DESCRIPTOR),
        _proto(v1alpha),
        _reflection_v1(_proto(v1alpha)),
        _with_list(_proto(health)),
    ):
        _add(pool, proto, added)
    return pool


POOL = _pool()
HEALTH: ServiceDescriptor = POOL.FindServiceByName("grpc.health.v1.Health")
REFLECTION_V1: ServiceDescriptor = POOL.FindServiceByName("grpc.reflection.v1.ServerReflection")
REFLECTION_V1ALPHA: ServiceDescriptor = POOL.FindServiceByName("grpc.reflection.v1alpha.ServerReflection")
