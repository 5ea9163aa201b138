"""Unread unary responses use bounded memory, and other callers are not affected."""

from collections import Counter
from collections.abc import Iterator

import pytest
from google.protobuf.message import Message
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from harness.connections import connect
from harness.population import fill
from harness.services import Service, peak
from harness.stores import Store
from harness.waiting import until

from loadgen.h2load import grpc_frame
from loadgen.http2 import Connection, header_block
from userservice import UserManager
from userservice.v1.user_service_pb2 import BatchGetUsersRequest, GetUserRequest, ListUsersRequest, UpdateUserRequest

MIB = 1 << 20
USERS = [f"u{number}" for number in range(300)]
CALL = '"message":"call"'
PAGES, WRITES = 90, 30
WINDOW = 1000  # bytes that the server may send before the caller reads: less than a response
CALLS = {
    "pages": ("UserService/ListUsers", ListUsersRequest(limit=1000), 300),
    "batches": ("UserService/BatchGetUsers", BatchGetUsersRequest(user_ids=USERS * 2), 10),  # of 35 MiB
}


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store() as store:
        fill(store, USERS, [60_000] * len(USERS))
        yield store


def ask(port: int, method: str, request: Message, calls: int) -> Connection:
    """Sends calls over a separate connection, and reads nothing."""
    connection = Connection(port, window=WINDOW)
    block, body = header_block(method), grpc_frame(request)
    for _ in range(calls):
        connection.socket.sendall(connection.request(block, body))
    return connection


def answers(service: Service, method: str, request: Message, calls: int) -> Counter[str]:
    """Counts the outcomes of calls whose responses are not read."""
    before = len(service.log_lines_with(CALL))
    with ask(service.port, method, request, calls).socket:
        until(lambda: len(service.log_lines_with(CALL)) >= before + calls)
    return Counter(line["code"] for line in service.log_lines_with(CALL)[before:])


@pytest.mark.long
@pytest.mark.parametrize("kind", CALLS)
async def test_unread_responses_are_bounded(store: Store, kind: str) -> None:
    method, request, calls = CALLS[kind]
    with Service(redis_url=store.url) as service:
        before = peak(service.pid)
        with ask(service.port, method, request, calls).socket:
            until(lambda: len(service.log_lines_with(CALL)) >= calls)
            grown = (peak(service.pid) - before) / MIB
            print(f"{calls} unread {kind}: {grown:.0f} MiB")  # noqa: T201
            assert service.log_lines_with('"limit":"unread_bytes_per_connection"')
            async with connect(service.address) as stubs:  # another caller
                await stubs.users.GetUser(GetUserRequest(user_id="u1"), timeout=10)
        assert service.stop() == 0
        assert not service.log_lines_with("grpc._cython"), "the loss of a connection is no error of the service"
    assert grown < 320


@pytest.mark.long
async def test_a_rejected_write_changes_nothing(store: Store) -> None:
    method, request, _ = CALLS["pages"]
    with Service(redis_url=store.url) as service:
        connection = ask(service.port, method, request, PAGES)
        until(lambda: len(service.log_lines_with(CALL)) >= PAGES)
        block = header_block("UserService/UpdateUser")
        for number, user_id in enumerate(USERS[:WRITES], 1):  # with responses of 60 kB
            body = grpc_frame(UpdateUserRequest(user_id=user_id, first_name="changed"))
            connection.socket.sendall(connection.request(block, body))
            until(lambda: len(service.log_lines_with('"UpdateUser"')) >= number)  # noqa: B023 - called at once
        connection.socket.close()
        codes = Counter(line["code"] for line in service.log_lines_with("UpdateUser"))
        async with UserManager(service.address) as user_manager:
            users = await user_manager.batch_get(USERS[:WRITES])
    assert codes.keys() == {"OK", "RESOURCE_EXHAUSTED"}
    assert [user.first_name for user in users].count("changed") == codes["OK"]


@pytest.mark.long
def test_responses_of_ended_calls_do_not_count_as_unread(store: Store) -> None:
    """Each connection uses a quarter of the total limit, and is then closed."""
    method, _, _ = CALLS["batches"]
    request = BatchGetUsersRequest(user_ids=USERS)  # a response has 17 MiB
    with Service(redis_url=store.url) as service:
        for _ in range(6):
            assert answers(service, method, request, 4) == {"OK": 3, "RESOURCE_EXHAUSTED": 1}


def test_unread_reflection_streams_are_ended(store: Store) -> None:
    """Otherwise a few connections could use all reflection streams forever."""
    body = grpc_frame(ServerReflectionRequest(file_containing_symbol="userservice.v1.UserService"))
    block = header_block("ServerReflection/ServerReflectionInfo", package="grpc.reflection.v1")
    with Service("--stall-timeout", "0.5", redis_url=store.url) as service:
        connection = Connection(service.port, window=WINDOW)
        with connection.socket:
            connection.socket.sendall(connection.request(block, body))
            [line] = until(lambda: service.log_lines_with(CALL))
    assert line["code"] == "UNAVAILABLE"
