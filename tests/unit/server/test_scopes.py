"""The scope that each method requires: declared in the protos, read once at startup."""

from dataclasses import dataclass, field

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from harness.shapes import chain_settings, described

from userservice.v1 import session_service_pb2, user_service_pb2
from userservice_server.config import ConfigError
from userservice_server.transport.call import Rpc
from userservice_server.transport.credentials.scopes import ANY_CREDENTIAL, SCOPES, granted, required_scope
from userservice_server.transport.descriptors import HEALTH, REFLECTION_V1, REFLECTION_V1ALPHA
from userservice_server.transport.handlers import service_handler

# The table of the contract, written independently of the protos.
CONTRACT = {
    "AddUser": "users.write",
    "GetUser": "users.read",
    "UpdateUser": "users.write",
    "DeleteUser": "users.write",
    "ListUsers": "users.list",
    "ListUsersChunked": "users.list",
    "PlanUserScan": "users.list",
    "CountUsers": "users.list",
    "FindUsers": "users.list",
    "BatchGetUsers": "users.read",
    "GetUserSessions": "sessions.read",
    "ImportUsers": "users.import",
    "GetImport": "users.import",
    "WatchUsers": "users.watch",
    "AddSession": "sessions.write",
    "GetSession": "sessions.read",
    "UpdateSession": "sessions.write",
    "DeleteSession": "sessions.write",
    "TouchSession": "sessions.write",
    "RevokeUserSessions": "sessions.write",
}


@dataclass
class FakeMethod:
    service: str
    name: str = "Call"
    options: MethodOptions = field(default_factory=MethodOptions)


def scopes_of(service: ServiceDescriptor) -> dict[str, str | None]:
    return {method.name: required_scope(Rpc.described_by(method)) for method in service.methods}


def test_the_protos_declare_the_scopes_of_the_contract() -> None:
    services = [
        service
        for file in (user_service_pb2.DESCRIPTOR, session_service_pb2.DESCRIPTOR)
        for service in file.services_by_name.values()
    ]
    found = {name: scope for service in services for name, scope in scopes_of(service).items()}
    assert found == CONTRACT


def test_health_requires_no_credential_and_reflection_any_valid_credential() -> None:
    assert set(scopes_of(HEALTH).values()) == {None}
    assert set(scopes_of(REFLECTION_V1).values()) == {ANY_CREDENTIAL}
    assert set(scopes_of(REFLECTION_V1ALPHA).values()) == {ANY_CREDENTIAL}


class Servicer:
    async def UnaryUnary(self, *_: object) -> bytes:  # noqa: N802
        return b""

    UnaryStream = StreamUnary = StreamStream = UnaryUnary


@pytest.mark.parametrize(("scope", "problem"), [("", "no scope"), ("users.reed", "unknown scope"), ("*", "unknown")])
def test_a_method_without_a_known_scope_prevents_the_start(scope: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"tests.Shapes/UnaryStream declares.*{problem}"):
        service_handler(described({"UnaryStream": scope}), Servicer(), chain_settings())


def test_a_foreign_service_outside_the_table_prevents_the_start() -> None:
    with pytest.raises(ConfigError, match="no scope"):
        required_scope(FakeMethod("grpc.channelz.v1.Channelz"))


def test_a_star_grants_every_scope_and_unknown_scopes_grant_nothing() -> None:
    assert granted(["*"]) == SCOPES
    assert granted(["users.read", "openid", ""]) == {"users.read"}
