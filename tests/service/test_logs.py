"""The log consists of JSON lines that identify the call but contain no personal data."""

import contextlib
import re
import uuid
from collections import Counter
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from harness.connections import BlockingStubs, connect_blocking, health
from harness.failures import failure_of
from harness.population import fill, struct
from harness.ports import free_port
from harness.proxies import Proxy
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice import SyncUserManager, UserManager
from userservice.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest
from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    BatchGetUsersRequest,
    DeleteUserRequest,
    GetUserRequest,
    ListUsersChunkedRequest,
    ListUsersRequest,
    UpdateUserRequest,
)

CANARY = "canary7f3a"


def test_no_personal_data_and_no_secret_is_ever_logged() -> None:
    """Every field of the requests contains the canary, in calls that succeed, are rejected and fail."""
    port = free_port()
    with (
        Store(port=port, options=["--requirepass", f"{CANARY}-password"]) as store,
        Proxy(port) as proxy,
        Service(
            "--log-level", "debug", "--store-timeout", "0.5", redis_url=f"redis://:{CANARY}-password@{proxy.address}/0"
        ) as service,
        connect_blocking(service.address) as stubs,
    ):
        _use_everything(stubs.users, stubs.sessions)
        proxy.cut_all()
        _use_everything(stubs.users, stubs.sessions)
        with store.client(password=f"{CANARY}-password") as client:
            client.set("userservice:{0}:user_ids", f"{CANARY}: not what it should be")
        until(lambda: health(service.address) == "SERVING" and _works_again(stubs))
        _use_everything(stubs.users, stubs.sessions)
        store.kill()
        _use_everything(stubs.users, stubs.sessions)
        assert service.stop() == 0
        log = "\n".join([*service.stdout, *service.stderr])
    codes = {record.get("code") for record in service.log}
    assert {"OK", "NOT_FOUND", "ALREADY_EXISTS", "INVALID_ARGUMENT", "ABORTED", "INTERNAL", "UNAVAILABLE"} <= codes
    assert CANARY not in log
    assert not re.search(rf"\b{proxy.port}\b", "\n".join(line for line in service.stderr if '"call"' in line))


def _works_again(stubs: BlockingStubs) -> bool:
    """Returns whether the store is available again: calls with damaged user_ids then fail with INTERNAL."""
    with pytest.raises(grpc.RpcError) as raised:
        stubs.users.GetUser(GetUserRequest(user_id=CANARY))
    return failure_of(raised.value).code == "INTERNAL"


def _use_everything(users: "object", sessions: "object") -> None:
    person: dict[str, Any] = {
        "user_id": f"{CANARY}-id",
        "email": f"{CANARY}@x",
        "first_name": f"{CANARY}-f",
        "last_name": f"{CANARY}-l",
    }
    metadata = struct({f"{CANARY}-key": f"{CANARY}-value"})
    calls = [
        (users, "AddUser", AddUserRequest(**person, metadata=metadata)),
        (users, "AddUser", AddUserRequest(**person, metadata=metadata)),
        (users, "GetUser", GetUserRequest(user_id=person["user_id"])),
        (users, "GetUser", GetUserRequest(user_id=f"{CANARY}-nobody")),
        (users, "GetUser", GetUserRequest(user_id=f"{CANARY}\n")),
        (users, "UpdateUser", UpdateUserRequest(**person, metadata=metadata, request_id=str(uuid.uuid4()))),
        (users, "UpdateUser", UpdateUserRequest(**person, etag=f"{CANARY}-etag")),
        (users, "UpdateUser", UpdateUserRequest(**person, update_mask=FieldMask(paths=[f"{CANARY}-path"]))),
        (users, "BatchGetUsers", BatchGetUsersRequest(user_ids=[person["user_id"], f"{CANARY}-other"])),
        (users, "ListUsers", ListUsersRequest()),
        (users, "ListUsersChunked", ListUsersChunkedRequest()),
        (
            sessions,
            "AddSession",
            AddSessionRequest(user_id=person["user_id"], session_id=f"{CANARY}-s", metadata=metadata),
        ),
        (sessions, "GetSession", GetSessionRequest(user_id=person["user_id"], session_id=f"{CANARY}-t")),
        (users, "DeleteUser", DeleteUserRequest(user_id=person["user_id"])),
    ]
    for stub, method, request in calls:
        with contextlib.suppress(grpc.RpcError):
            answer = getattr(stub, method)(request, timeout=20)
            if method == "ListUsersChunked":
                list(answer)


def test_every_call_is_logged_with_the_call_id_of_its_caller(service: Service) -> None:
    with connect_blocking(service.address) as stubs:
        stubs.users.AddUser(AddUserRequest(user_id="ada"), metadata=(("x-request-id", "trace/1"),))
        with pytest.raises(grpc.RpcError) as raised:
            stubs.users.GetUser(GetUserRequest(user_id="bob"), metadata=(("x-request-id", "trace/2"),))
    assert failure_of(raised.value).request_id == "trace/2"
    lines = until(
        lambda: _lines_of(service, "trace/2") and _lines_of(service, "trace/1") + _lines_of(service, "trace/2")
    )
    assert [(line["method"], line["code"]) for line in lines] == [("AddUser", "OK"), ("GetUser", "NOT_FOUND")]
    assert all(line["duration_ms"] > 0 for line in lines)


@pytest.mark.parametrize("unfit", ["", "a b", " ", "x" * 129])
def test_an_invalid_call_id_is_replaced_in_the_log(service: Service, unfit: str) -> None:
    with connect_blocking(service.address) as stubs, pytest.raises(grpc.RpcError) as raised:
        stubs.users.GetUser(GetUserRequest(user_id="bob"), metadata=(("x-request-id", unfit),))
    assert re.fullmatch(r"[!-~]{1,128}", failure_of(raised.value).request_id)


def test_call_ids_of_the_server_differ(service: Service) -> None:
    seen = set()
    with connect_blocking(service.address) as stubs:
        for _ in range(5):
            with pytest.raises(grpc.RpcError) as raised:
                stubs.users.GetUser(GetUserRequest(user_id="bob"))
            [line] = until(lambda: _lines_of(service, failure_of(raised.value).request_id))
            seen.add(line["request_id"])
    assert len(seen) == 5


async def test_complete_streams_of_the_python_client_are_logged_as_ok() -> None:
    """A manager that cancels after the last chunk caused up to a quarter of these lines to be CANCELLED."""
    streams = 60
    with Store() as store:
        fill(store, (f"u{number}" for number in range(500)))
        with Service(redis_url=store.url) as service:
            async with UserManager(service.address) as manager:
                for _ in range(streams):
                    assert sum([len(users) async for users in manager.list_chunked(100)]) == 500
            with SyncUserManager(service.address) as blocking:
                for _ in range(streams):
                    assert sum(map(len, blocking.list_chunked(100))) == 500
            assert service.stop() == 0
    assert Counter(line["code"] for line in service.log_lines_with("ListUsersChunked")) == {"OK": 2 * streams}


def _lines_of(service: Service, request_id: str) -> list[dict[str, Any]]:
    return [record for record in service.log_lines_with(request_id) if record["request_id"] == request_id]
