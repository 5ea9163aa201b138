"""--read-only: calls that write are rejected, reads succeed."""

import time

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from harness.connections import connect_blocking, health
from harness.failures import failure_of
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1 import session_service_pb2 as sessions
from userservice.v1 import user_service_pb2 as users
from userservice.v1.user_import_pb2 import ImportUsersRequest


def test_a_read_only_server_rejects_all_writes_and_serves_reads() -> None:
    with Store() as store:
        with Service(redis_url=store.url) as service, connect_blocking(service.address) as stubs:
            stubs.users.AddUser(users.AddUserRequest(user_id="ada"))
        with (
            Service("--read-only", "true", redis_url=store.url) as service,
            connect_blocking(service.address) as stubs,
        ):
            written = {
                method.name: method.input_type
                for described in (
                    users.DESCRIPTOR.services_by_name["UserService"],
                    sessions.DESCRIPTOR.services_by_name["SessionService"],
                )
                for method in described.methods
                if "request_id" in method.input_type.fields_by_name
            }
            assert {"AddUser", "DeleteUser", "AddSession", "UpdateSession"} <= set(written)
            for name in written:
                module, stub = (sessions, stubs.sessions) if "Session" in name else (users, stubs.users)
                if not hasattr(stub, name):
                    module, stub = (users, stubs.users)
                with pytest.raises(grpc.RpcError) as raised:
                    getattr(stub, name)(getattr(module, f"{name}Request")())
                assert failure_of(raised.value).reason == "STORE_UNAVAILABLE", name
            with pytest.raises(grpc.RpcError) as raised:
                list(stubs.users.ImportUsers(iter([ImportUsersRequest()])))
            assert failure_of(raised.value).reason == "STORE_UNAVAILABLE"
            assert stubs.users.GetUser(users.GetUserRequest(user_id="ada")).user.user_id == "ada"
            assert stubs.users.ListUsers(users.ListUsersRequest()).total_size == 1
            assert health(service.address) == "SERVING"


@pytest.mark.long
def test_a_read_only_server_removes_no_expired_sessions() -> None:
    expiring = sessions.AddSessionRequest(user_id="ada", session_id="s", ttl=Duration(seconds=1))
    with Store() as store:
        with Service(redis_url=store.url) as service, connect_blocking(service.address) as stubs:
            stubs.users.AddUser(users.AddUserRequest(user_id="ada"))
            stubs.sessions.AddSession(expiring)
        with (
            Service("--read-only", "true", redis_url=store.url) as service,
            connect_blocking(service.address) as stubs,
        ):
            until(lambda: not stubs.users.GetUserSessions(users.GetUserSessionsRequest(user_id="ada")).sessions)
            time.sleep(1.5)  # a server that removes expired sessions looks for them once per second
            kept = stubs.users.GetUserSessions(users.GetUserSessionsRequest(user_id="ada", include_expired=True))
            assert len(kept.sessions) == 1
