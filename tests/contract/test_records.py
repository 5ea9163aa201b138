"""Values that the server generates (ids, UUIDs, times), and the keys in the store."""

import asyncio
import time
from uuid import UUID, uuid4

import grpc
import pytest
from harness.connections import Stubs
from harness.failures import failure_of
from harness.population import add_users, struct
from harness.stores import Store, everything

from userservice.v1.session_service_pb2 import AddSessionRequest, DeleteSessionRequest, UpdateSessionRequest
from userservice.v1.user_pb2 import User
from userservice.v1.user_service_pb2 import AddUserRequest, DeleteUserRequest, GetUserRequest, UpdateUserRequest


async def test_the_uuid_has_version_7_and_contains_the_time_of_creation(stubs: Stubs) -> None:
    before = time.time()
    user = (await stubs.users.AddUser(AddUserRequest(user_id="ada"))).user
    after = time.time()

    identifier = UUID(user.uuid)
    assert str(identifier) == user.uuid
    assert (identifier.version, identifier.variant) == (7, "specified in RFC 4122")
    assert before - 0.01 <= (identifier.int >> 80) / 1000 <= after + 0.01


async def test_times_are_current_and_in_microseconds(stubs: Stubs) -> None:
    before = time.time_ns()
    users = (await add_users(stubs, [f"u{n}" for n in range(50)])).values()
    after = time.time_ns()

    for user in users:
        assert before - 2_000_000 <= user.created_at.ToNanoseconds() <= after + 2_000_000
        assert user.created_at.nanos % 1000 == 0
        assert user.updated_at == user.created_at
    assert len({user.created_at.nanos % 1_000_000 for user in users}) > 1, "the microseconds are always the same"


async def test_created_at_follows_the_order_of_ids(stubs: Stubs) -> None:
    await add_users(stubs, ["first"])  # the store was emptied: the first writes are repeated in the new store
    users = sorted((await add_users(stubs, [f"u{n}" for n in range(300)])).values(), key=lambda user: user.id)
    times = [user.created_at.ToMicroseconds() for user in users]
    assert times == sorted(times)


async def test_an_unknown_field_is_not_stored(stubs: Stubs, store: Store) -> None:
    """A newer client may send one.

    The server must not store it, because others would receive a value that was not checked.
    """
    unknown = b"\xfa\x7f\x06canary"  # field 2047, a text
    request = AddUserRequest.FromString(AddUserRequest(user_id="ada").SerializeToString() + unknown)
    assert b"canary" in request.SerializeToString()

    await stubs.users.AddUser(request)

    stored = (await stubs.users.GetUser(GetUserRequest(user_id="ada"))).user
    assert b"canary" not in stored.SerializeToString()
    with store.client() as client:
        assert b"canary" not in repr(everything(client)).encode()


async def test_nothing_of_a_deleted_user_remains_in_the_store(stubs: Stubs, store: Store) -> None:
    await add_users(stubs, ["bob"])
    with store.client() as client:
        before = set(client.scan_iter())
    canary = "canary-ada"
    await stubs.users.AddUser(AddUserRequest(user_id=canary, email=canary, metadata=struct({canary: canary})))
    for number in range(5):
        request = AddSessionRequest(user_id=canary, session_id=f"canary-{number}", metadata=struct({"a": canary}))
        await stubs.sessions.AddSession(request)
    await stubs.users.UpdateUser(
        UpdateUserRequest(user_id=canary, first_name=canary, metadata=struct({"more": canary}))
    )
    await stubs.sessions.UpdateSession(
        UpdateSessionRequest(user_id=canary, session_id="canary-1", metadata=struct({"b": canary}))
    )
    await stubs.sessions.DeleteSession(DeleteSessionRequest(user_id=canary, session_id="canary-2"))
    with store.client() as client:
        assert "canary" in repr(everything(client))

    await stubs.users.DeleteUser(DeleteUserRequest(user_id=canary))

    with store.client() as client:
        left = everything(client)
    assert "canary" not in repr(left)
    assert set(left) == before


async def test_nothing_of_a_deleted_session_remains_in_the_store(stubs: Stubs, store: Store) -> None:
    await add_users(stubs, ["ada"])
    with store.client() as client:
        before = set(client.scan_iter())
    await stubs.sessions.AddSession(
        AddSessionRequest(user_id="ada", session_id="canary", metadata=struct({"a": "canary"}))
    )
    await stubs.sessions.DeleteSession(DeleteSessionRequest(user_id="ada", session_id="canary"))
    with store.client() as client:
        left = everything(client)
    assert "canary" not in repr(left)
    assert set(left) == before


async def test_keys_have_the_prefix_and_one_hash_tag(stubs: Stubs, store: Store) -> None:
    """On a cluster, all keys of a script must be on one node, also for user_ids and session_ids that contain braces."""
    for user_id in ("ada", "}{", "{x}", "a}b{c}"):
        await stubs.users.AddUser(AddUserRequest(user_id=user_id, request_id=str(uuid4())))
        await stubs.sessions.AddSession(AddSessionRequest(user_id=user_id, session_id="{s}"))
    with store.client() as client:
        keys = [key.decode() for key in client.scan_iter()]
    assert all(key.startswith("userservice:") for key in keys)
    tags = {key[key.index("{") + 1 : key.index("}")] for key in keys if "{" in key}
    assert tags == {"0"}


async def test_idempotency_records_expire_after_ten_minutes(stubs: Stubs, store: Store) -> None:
    request = AddUserRequest(user_id="ada", request_id="0195b2c8-6c3a-7a4e-8f4e-9f1d2c3b4a5b")
    await add_users(stubs, ["bob"])
    with store.client() as client:
        before = set(client.scan_iter())
        await stubs.users.AddUser(request)
        [remembered] = set(client.scan_iter()) - before
        assert 590_000 < client.pttl(remembered) <= 600_000
        await stubs.users.AddUser(request)
        assert client.pttl(remembered) <= 600_000

        client.pexpire(remembered, 1)
        await asyncio.sleep(0.01)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.users.AddUser(request)
    assert failure_of(refused.value).reason == "USER_ALREADY_EXISTS"


async def test_stored_records_read_as_users_of_the_proto(stubs: Stubs, store: Store) -> None:
    """The stored bytes are the bytes on the wire: a sorted set contains the framed users with their ids as scores."""
    user = (await add_users(stubs, ["ada"], email="a@b"))["ada"]
    with store.client() as client:
        [(member, score)] = client.zrange("userservice:{0}:users", 0, -1, withscores=True)
    assert score == user.id
    assert member[0] == 0x0A  # field 1, with a length
    assert User.FromString(member[member.index(user.SerializeToString()[:4]) :]) == user
