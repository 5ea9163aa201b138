"""A write whose reply is lost is applied once, and a repetition with its request_id returns the first outcome."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.message import Message
from harness.connections import connect
from harness.failures import failure_of
from harness.population import names, read_chunks, struct
from harness.proxies import Proxy
from harness.services import Service
from harness.stores import Store

from userservice import SyncUserManager, UserManager
from userservice.v1.user_service_pb2 import AddUserRequest, DeleteUserRequest, UpdateUserRequest

ROUNDS = 15
PROBABILITY = 0.2


async def test_without_a_request_id_the_service_does_not_repeat_a_write_by_itself() -> None:
    """If the service repeated the add, the result would be USER_ALREADY_EXISTS."""
    with Store() as store, Proxy(store.socket) as proxy, Service(redis_url=proxy.url) as service:
        async with connect(service.address) as stubs:
            proxy.lose_reply_after = proxy.once(b"ada")
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stubs.users.AddUser(AddUserRequest(user_id="ada"))
        assert failure_of(raised.value).reason == "STORE_UNAVAILABLE"
        assert proxy.lost == 1
        with store.client() as client:
            assert client.zcard("userservice:{0}:users") == 1, "it was not applied, so nothing was shown"


async def until_answered(method: Callable[..., Awaitable[Any]], request: Message) -> Any:
    """Repeats the same request until the store is available; raises any other error."""
    for _ in range(100):
        try:
            return await method(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            if failure_of(error).reason != "STORE_UNAVAILABLE":
                raise
            await asyncio.sleep(0.05)
    raise AssertionError("the store never came back")


async def test_repeats_by_request_id_are_applied_once() -> None:
    """No write can succeed twice: a second add finds the user, and a second update has an outdated etag."""
    with Store() as store, Proxy(store.socket, seed=7) as proxy, Service(redis_url=proxy.url) as service:
        async with connect(service.address) as stubs:
            proxy.lose_reply_after = proxy.chance(PROBABILITY, b"userservice:{0}:request:")
            for number in range(ROUNDS):
                user_id = f"u{number}"
                add = AddUserRequest(user_id=user_id, request_id=str(uuid4()))
                user = (await until_answered(stubs.users.AddUser, add)).user
                for key in ("a", "b"):
                    patch = struct({key: number})
                    update = UpdateUserRequest(user_id=user_id, metadata=patch, etag=user.etag, request_id=str(uuid4()))
                    user = (await until_answered(stubs.users.UpdateUser, update)).user
                assert dict(user.metadata) == {"a": number, "b": number}
                if number % 2:
                    delete = DeleteUserRequest(user_id=user_id, etag=user.etag, request_id=str(uuid4()))
                    await until_answered(stubs.users.DeleteUser, delete)
            proxy.lose_reply_after = lambda _: False
            assert names(await read_chunks(stubs)) == [f"u{number}" for number in range(0, ROUNDS, 2)]
        assert proxy.lost >= 5, "too few replies were lost to show anything"


async def test_the_async_manager_hides_a_lost_reply() -> None:
    with Store() as store, Service(redis_url=store.url) as service, Proxy(service.port) as proxy:
        async with UserManager(proxy.address) as manager:
            await manager.add(user_id="first")
            for user_id in ("lost-add", "lost-too"):
                proxy.lose_reply_after = proxy.once(user_id.encode())
                added = await manager.add(user_id=user_id)
                assert await manager.get(user_id) == added
            proxy.lose_reply_after = proxy.once(b"lost-update")
            updated = await manager.update(user_id="first", email="lost-update", etag=(await manager.get("first")).etag)
            assert await manager.get("first") == updated
            proxy.lose_reply_after = proxy.once(b"lost-add")
            await manager.delete("lost-add")
            assert [user.user_id for user in await manager.list()] == ["first", "lost-too"]
        assert proxy.lost == 4


def test_the_sync_manager_hides_a_lost_reply() -> None:
    with Store() as store, Service(redis_url=store.url) as service, Proxy(service.port) as proxy:
        with SyncUserManager(proxy.address) as manager:
            manager.add(user_id="first")
            proxy.lose_reply_after = proxy.once(b"lost-add")
            added = manager.add(user_id="lost-add")
            assert manager.get("lost-add") == added
            proxy.lose_reply_after = proxy.once(b"lost-add")
            manager.delete("lost-add")
            assert [user.user_id for user in manager.list()] == ["first"]
        assert proxy.lost == 2
