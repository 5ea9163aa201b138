"""The Go servers that the benchmark compares the service with do what the service does."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from harness.tools import require

from benchmarks import go_peers, programs, stores
from benchmarks.population import user_id, users
from userservice.v1 import user_service_pb2 as pb
from userservice.v1.user_service_pb2_grpc import UserServiceStub

USERS = 250

pytestmark = [pytest.mark.long, pytest.mark.timeout(700)]


@pytest.fixture(scope="module")
def built() -> dict[str, Path]:
    require("go")
    return go_peers.build()


@pytest.fixture(params=["plain", "encoded"])
def peer(request: pytest.FixtureRequest, built: dict[str, Path], tmp_path: Path) -> Iterator[UserServiceStub]:
    with stores.running(tmp_path / "own") as own, stores.running(tmp_path / "peer") as store:
        if request.param == "plain":
            store.fill_baseline(USERS)
        else:
            own.fill(USERS)
            store.fill_encoded(own.records())
        with (
            programs.go_peer(request.param, built[request.param], store.path, tmp_path) as program,
            grpc.insecure_channel(f"127.0.0.1:{program.port}") as channel,
        ):
            yield UserServiceStub(channel)


def test_reads_return_the_stored_users(peer: UserServiceStub) -> None:
    wanted = users(1, 7)[0]
    found = peer.GetUser(pb.GetUserRequest(user_id=user_id(7))).user
    assert (found.user_id, found.email, found.metadata) == (wanted.user_id, wanted.email, wanted.metadata)
    batch = peer.BatchGetUsers(pb.BatchGetUsersRequest(user_ids=[user_id(8), "nobody", user_id(7)]))
    assert [user.user_id for user in batch.users] == [user_id(8), user_id(7)]
    assert batch.users[1] == found
    assert batch.missing_user_ids == ["nobody"]


@pytest.mark.parametrize("chunk_size", [0, 7, 125, 250, 1000])
def test_a_stream_returns_each_user_once(peer: UserServiceStub, chunk_size: int) -> None:
    chunks = list(peer.ListUsersChunked(pb.ListUsersChunkedRequest(chunk_size=chunk_size)))
    assert [user.user_id for chunk in chunks for user in chunk.users] == [user_id(number) for number in range(USERS)]
    assert {chunk.total_size for chunk in chunks} == {USERS}
    rest = peer.ListUsersChunked(pb.ListUsersChunkedRequest(cursor=chunks[0].users[-1].id))
    assert sum(len(chunk.users) for chunk in rest) == USERS - len(chunks[0].users)


def test_writes_are_read_back(peer: UserServiceStub) -> None:
    [new] = users(1, USERS)
    added = peer.AddUser(new).user
    assert peer.GetUser(pb.GetUserRequest(user_id=new.user_id)).user == added
    update = pb.UpdateUserRequest(user_id=new.user_id, first_name="Zed")
    update.metadata.update({"logins": 5, "address": {"zip": None, "floor": 3}})
    updated = peer.UpdateUser(update).user
    assert peer.GetUser(pb.GetUserRequest(user_id=new.user_id)).user == updated
    assert (updated.first_name, updated.email, updated.id) == ("Zed", added.email, added.id)
    assert updated.metadata["logins"] == 5
    assert set(updated.metadata.fields["address"].struct_value.fields) == {"city", "floor"}
    assert updated.etag != added.etag


def test_errors_have_the_codes_of_the_service(peer: UserServiceStub) -> None:
    calls: list[tuple[Callable[[Any], object], object, grpc.StatusCode]] = [
        (peer.GetUser, pb.GetUserRequest(user_id="nobody"), grpc.StatusCode.NOT_FOUND),
        (peer.UpdateUser, pb.UpdateUserRequest(user_id="nobody"), grpc.StatusCode.NOT_FOUND),
        (peer.AddUser, users(1, 1)[0], grpc.StatusCode.ALREADY_EXISTS),
    ]
    for call, request, code in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert caught.value.code() == code
