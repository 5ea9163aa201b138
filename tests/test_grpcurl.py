"""The real grpcurl with the real service, without proto files."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from harness.services import Service
from harness.tools import require

from userservice.v1 import session_service_pb2, user_service_pb2

USERS = "userservice.v1.UserService"
SESSIONS = "userservice.v1.SessionService"


@dataclass(frozen=True)
class Grpcurl:
    program: Path
    address: str

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.program), "-plaintext", "-max-time", "20", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def show(self, *arguments: str) -> str:
        done = self.run(self.address, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(self, method: str, **request: Any) -> Any:
        done = self.run("-emit-defaults", "-d", json.dumps(request), self.address, method)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def grpcurl(service: Service) -> Grpcurl:
    return Grpcurl(require("grpcurl"), service.address)


def test_list_names_every_service(grpcurl: Grpcurl) -> None:
    listed = grpcurl.show("list").splitlines()
    reflection = {"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
    assert set(listed) == {USERS, SESSIONS, "grpc.health.v1.Health", *reflection}


@pytest.mark.parametrize(
    ("service_name", "descriptor"),
    [
        (USERS, user_service_pb2.DESCRIPTOR.services_by_name["UserService"]),
        (SESSIONS, session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]),
    ],
)
def test_describe_shows_every_rpc(grpcurl: Grpcurl, service_name: str, descriptor: Any) -> None:
    described = grpcurl.show("describe", service_name)
    for method in descriptor.methods:
        stream = "stream " if method.client_streaming else ""
        assert f"rpc {method.name} ( {stream}.{method.input_type.full_name} )" in described
    assert grpcurl.show("list", service_name).split() == sorted(method.full_name for method in descriptor.methods)


def test_describe_shows_a_single_rpc(grpcurl: Grpcurl) -> None:
    described = grpcurl.show("describe", "userservice.v1.UserService.GetUser")
    assert "rpc GetUser ( .userservice.v1.GetUserRequest ) returns ( .userservice.v1.GetUserResponse ) {" in described
    assert 'option (.userservice.v1.required_scope) = "users.read";' in described


def test_describe_shows_the_fields_of_a_message(grpcurl: Grpcurl) -> None:
    described = grpcurl.show("describe", "userservice.v1.User")
    assert "string user_id = 1;" in described
    assert ".google.protobuf.Struct metadata = 7;" in described


def test_describe_shows_the_messages_of_error_details(grpcurl: Grpcurl) -> None:
    for name in ("Status", "ErrorInfo", "BadRequest", "RequestInfo", "RetryInfo", "QuotaFailure"):
        assert grpcurl.show("describe", f"google.rpc.{name}").startswith(f"google.rpc.{name} is a message:")
    assert "ERROR_REASON_USER_NOT_FOUND" in grpcurl.show("describe", "userservice.v1.ErrorReason")


def test_health_and_reflection_are_described_as_in_their_public_protos(grpcurl: Grpcurl) -> None:
    health = grpcurl.show("describe", "grpc.health.v1.Health")
    assert "rpc List ( .grpc.health.v1.HealthListRequest ) returns ( .grpc.health.v1.HealthListResponse );" in health
    assert "map<string, .grpc.health.v1.HealthCheckResponse> statuses = 1;" in grpcurl.show(
        "describe", "grpc.health.v1.HealthListResponse"
    )
    request = "grpc.reflection.v1.ServerReflectionRequest"
    assert f"stream .{request} ) returns" in grpcurl.show("describe", "grpc.reflection.v1.ServerReflection")
    assert ".grpc.reflection.v1.ExtensionRequest file_containing_extension = 5;" in grpcurl.show("describe", request)


def test_every_rpc_can_be_called(grpcurl: Grpcurl) -> None:
    called = set()

    def call(service_name: str, method: str, **request: Any) -> Any:
        called.add(method)
        return grpcurl.call(f"{service_name}/{method}", **request)

    added = call(USERS, "AddUser", user_id="ada", email="ada@example.org", metadata={"foo": "bar", "n": 1})["user"]
    assert (added["user_id"], added["metadata"]) == ("ada", {"foo": "bar", "n": 1})
    assert UUID(added["uuid"]).version == 7
    assert call(USERS, "GetUser", user_id="ada")["user"] == added
    assert call(USERS, "FindUsers", emails=["ADA@example.org"])["users"] == [added]
    patch = {"metadata": {"foo": None}, "first_name": "Ada"}
    updated = call(USERS, "UpdateUser", user_id="ada", etag=added["etag"], **patch)["user"]
    assert (updated["first_name"], updated["metadata"]) == ("Ada", {"n": 1})
    masked = call(USERS, "UpdateUser", user_id="ada", update_mask={"paths": ["email", "first_name"]})["user"]
    assert (masked["email"], masked["first_name"]) == ("", "")

    session = call(SESSIONS, "AddSession", user_id="ada", session_id="s", metadata={"a": 1})["session"]
    assert call(SESSIONS, "GetSession", user_id="ada", session_id="s")["session"] == session
    changed = call(SESSIONS, "UpdateSession", user_id="ada", session_id="s", metadata={"b": 2})["session"]
    assert changed["metadata"] == {"a": 1, "b": 2}
    assert call(USERS, "GetUserSessions", user_id="ada")["sessions"] == [changed]

    page = call(USERS, "ListUsers", limit=10)
    assert (page["users"], page["next_cursor"], page["total_size"]) == ([masked], "0", "1")
    assert call(USERS, "ListUsersChunked", chunk_size=10)["users"] == [masked]
    [part] = call(USERS, "PlanUserScan", parts=3)["parts"]
    assert call(USERS, "ListUsersChunked", **part)["users"] == [masked]
    assert call(USERS, "ListUsers", filter="metadata.n = 1 AND NOT metadata : 'foo'")["users"] == [masked]
    assert call(USERS, "CountUsers", filter="email = '*'") == {"count": "1", "next_cursor": "0"}
    batch = call(USERS, "BatchGetUsers", user_ids=["nobody", "ada"])
    assert (batch["users"], batch["missing_user_ids"]) == ([masked], ["nobody"])

    import_id = "12345678-1234-1234-1234-123456789abc"
    assert call(USERS, "ImportUsers", options={"import_id": import_id})["acked_offset"] == "0"
    assert call(USERS, "GetImport", import_id=import_id)["row_errors"] == []

    short = call(SESSIONS, "AddSession", user_id="ada", session_id="t", ttl="3600s", idle_ttl="60s")["session"]
    assert short["idle_ttl"] == "60s"
    assert short["expire_time"] < short["max_expire_time"]
    assert call(SESSIONS, "TouchSession", user_id="ada", session_id="t")["session"] == short
    revoked = call(SESSIONS, "RevokeUserSessions", user_id="ada", except_session_id="s")
    assert revoked == {"revoked_count": "1"}
    called.add("WatchUsers")
    assert "WATCH_DISABLED" in grpcurl.run("-d", '{"now": true}', grpcurl.address, f"{USERS}/WatchUsers").stderr

    assert call(SESSIONS, "DeleteSession", user_id="ada", session_id="s") == {}
    assert call(USERS, "DeleteUser", user_id="ada") == {}
    assert call(USERS, "ListUsers")["users"] == []

    rpcs = user_service_pb2.DESCRIPTOR.services_by_name["UserService"].methods_by_name
    more = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"].methods_by_name
    assert called == set(rpcs) | set(more)


def test_an_error_is_readable(grpcurl: Grpcurl) -> None:
    done = grpcurl.run("-d", '{"user_id": "nobody"}', grpcurl.address, f"{USERS}/GetUser")
    assert done.returncode != 0
    assert "Code: NotFound" in done.stderr
    assert "USER_NOT_FOUND" in done.stderr
    assert "google.rpc.ErrorInfo" in done.stderr


@pytest.mark.parametrize("name", ["", USERS, SESSIONS])
def test_health_can_be_checked(grpcurl: Grpcurl, name: str) -> None:
    assert grpcurl.call("grpc.health.v1.Health/Check", service=name) == {"status": "SERVING"}


def test_health_of_all_services_can_be_listed(grpcurl: Grpcurl) -> None:
    statuses = {name: {"status": "SERVING"} for name in ("", USERS, SESSIONS, "liveness")}
    assert grpcurl.call("grpc.health.v1.Health/List") == {"statuses": statuses}


def test_health_of_an_unknown_service_is_not_found(grpcurl: Grpcurl) -> None:
    done = grpcurl.run("-d", '{"service": "nothing"}', grpcurl.address, "grpc.health.v1.Health/Check")
    assert done.returncode != 0
    assert "Code: NotFound" in done.stderr
