"""Targets of a manager: forms of addresses, several addresses, several connections, and proxies."""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.message import Message
from harness.connect_proxies import Behaviour, proxy
from harness.services import Service
from harness.stand_ins import StandIn, serve

from userservice import DeadlineExceededError, SyncUserManager, UnavailableError, UserManager, UserNotFoundError
from userservice.v1 import user_service_pb2 as messages

NO_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NO_PROXIES:
        monkeypatch.delenv(name, raising=False)


async def echo(request: bytes) -> AsyncIterator[Message]:
    user = messages.GetUserResponse()
    user.user.user_id = messages.GetUserRequest.FromString(request).user_id
    yield user


async def stream(request: bytes) -> AsyncIterator[Message]:
    first = messages.ListUsersChunkedRequest.FromString(request).cursor + 1
    for number in range(first, 6):
        chunk = messages.ListUsersChunkedResponse(next_cursor=0 if number == 5 else number)
        chunk.users.add(id=number)
        yield chunk


def stand_in() -> StandIn:
    return StandIn({"GetUser": echo, "ListUsersChunked": stream})


async def until_ready(manager: UserManager, peers: int, *servers: StandIn) -> None:
    """Makes calls until the given number of the manager's connections have been used."""
    async with asyncio.timeout(20):
        while len({peer for server in servers for peer in server.peers}) < peers:
            await manager.get("ada")
    for server in servers:
        server.peers.clear()


@pytest.mark.parametrize(
    "form", ["{}", "http://{}", "dns:///{}", "ipv4:{}", "ipv4:{},{}", "{},{}", "dns:///localhost:{port}"]
)
async def test_every_form_of_address_connects_to_the_service(form: str) -> None:
    async with serve(stand_in()) as address:
        users = UserManager(form.format(address, address, port=address.rpartition(":")[2]))
        assert (await users.get("ada")).user_id == "ada"
        await users.close()


@pytest.mark.parametrize("form", ["unix:{}/s", "unix-abstract:{}"])
async def test_clients_connect_through_unix_sockets(form: str, tmp_path: Path) -> None:
    target = form.format(tmp_path)
    async with serve(stand_in(), address=target), UserManager(target) as users:
        assert (await users.get("ada")).user_id == "ada"


@pytest.mark.parametrize("form", ["{},{},{}", "ipv4:{},{},{}"])
async def test_calls_are_distributed_evenly_over_several_addresses(form: str) -> None:
    servers = [stand_in() for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(serve(server)) for server in servers]
        users = await stack.enter_async_context(UserManager(form.format(*addresses)))
        await until_ready(users, 3, *servers)
        for _ in range(30):
            await users.get("ada")
        assert [len(server.peers) for server in servers] == [10, 10, 10]


async def test_an_address_without_a_server_is_skipped() -> None:
    down, up = stand_in(), stand_in()
    async with serve(up) as good:
        async with serve(down) as bad:
            pass
        async with UserManager(f"{bad},{good}") as users:
            for _ in range(20):
                await users.get("ada")
            async with serve(down, address=bad):
                await until_ready(users, 2, up, down)


async def test_a_stream_uses_one_address_and_resumes_at_another() -> None:
    async def stall(request: bytes) -> AsyncIterator[Message]:
        async for chunk in stream(request):
            yield chunk
            if not messages.ListUsersChunkedRequest.FromString(request).cursor:
                await asyncio.sleep(3600)

    servers = [StandIn({"GetUser": echo, "ListUsersChunked": stall}) for _ in range(2)]
    async with contextlib.AsyncExitStack() as first, contextlib.AsyncExitStack() as second:
        stacks = [first, second]
        addresses = [
            await stack.enter_async_context(serve(server)) for stack, server in zip(stacks, servers, strict=True)
        ]
        async with UserManager(",".join(addresses)) as users:
            await until_ready(users, 2, *servers)
            chunks = users.list_chunked()
            seen = [user.id for user in await anext(chunks)]
            [position] = [position for position in (0, 1) if servers[position].peers]
            await stacks[position].aclose()
            seen += [user.id async for chunk in chunks for user in chunk]
            assert seen == [1, 2, 3, 4, 5]
            assert len(servers[1 - position].peers) == 1


async def test_managers_of_one_process_have_connections_of_their_own() -> None:
    server = stand_in()
    async with serve(server) as address, UserManager(address) as one, UserManager(address) as other:
        for _ in range(5):
            await one.get("ada")
            await other.get("ada")
    assert sorted(Counter(server.peers).values()) == [5, 5]


async def test_a_manager_distributes_calls_over_its_connections() -> None:
    server = stand_in()
    async with serve(server) as address, UserManager(address, connections=4) as users:
        await until_ready(users, 4, server)
        await asyncio.gather(*(users.get("ada") for _ in range(40)))
    assert sorted(Counter(server.peers).values()) == [10, 10, 10, 10]


@pytest.mark.long
def test_one_busy_process_reaches_more_than_one_worker(tmp_path: Path) -> None:
    """The kernel assigns each connection to a worker.

    The probability that all 16 get the same worker is 1 in 32 768.
    """
    with Service("--workers", "2", data_dir=tmp_path) as service:
        workers = set()
        with SyncUserManager(service.address, connections=16) as users:
            for _ in range(200):
                with pytest.raises(UserNotFoundError) as raised:
                    users.get("nobody")
                workers.add(raised.value.request_id.partition("-")[0])
        assert len(workers) == 2
        assert service.stop() == 0


async def test_the_age_of_a_connection_fails_no_call() -> None:
    """The server closes each connection at its maximum age, which gRPC varies by up to 10 %."""
    server = stand_in()
    age = ("grpc.max_connection_age_ms", 300), ("grpc.max_connection_age_grace_ms", 5000)
    async with serve(server, *age) as address, UserManager(address, connections=2) as users:
        async with asyncio.timeout(30):
            while len(set(server.peers)) < 8:
                before = server.calls
                await asyncio.gather(*(users.get("ada") for _ in range(5)))
                # Nor is any call sent twice.
                assert server.calls == before + 5


@pytest.mark.parametrize("variable", ["https_proxy", "http_proxy", "grpc_proxy"])
@pytest.mark.parametrize("form", ["127.0.0.1:{}", "localhost:{}", "dns:///localhost:{}", "ipv4:127.0.0.1:{}"])
@pytest.mark.parametrize("exceptions", [None, "10.0.0.0/8", ""])
async def test_proxies_never_apply_to_loopback(
    variable: str, form: str, exceptions: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(stand_in()) as address, proxy("refuse") as refusing:
        monkeypatch.setenv(variable, refusing.url)
        if exceptions is not None:
            monkeypatch.setenv("no_proxy", exceptions)
        async with UserManager(form.format(address.rpartition(":")[2])) as users:
            assert (await users.get("ada")).user_id == "ada"
    assert refusing.requests == []


async def test_the_path_of_a_socket_can_contain_special_characters_of_urls(tmp_path: Path) -> None:
    reached = asyncio.Event()
    path = tmp_path / "5%41?#1 a"

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    server = await asyncio.start_unix_server(accept, path)
    async with server, UserManager(f"unix:{path}", timeout=5) as users:
        call = asyncio.ensure_future(users.get("ada"))
        await asyncio.wait_for(reached.wait(), 10)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)


async def test_proxies_never_apply_to_unix_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy("refuse") as refusing:
        monkeypatch.setenv("https_proxy", refusing.url)
        for target in (f"unix:{tmp_path}/s", f"unix-abstract:{tmp_path}"):
            async with serve(stand_in(), address=target), UserManager(target) as users:
                assert (await users.get("ada")).user_id == "ada"
    assert refusing.requests == []


async def test_a_service_behind_a_proxy_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(stand_in()) as address, proxy("work", int(address.rpartition(":")[2])) as working:
        monkeypatch.setenv("https_proxy", working.url)
        async with UserManager("users.example:50051") as users:
            assert (await users.get("ada")).user_id == "ada"
        assert working.requests == ["CONNECT users.example:50051 HTTP/1.1"]


@pytest.mark.parametrize("behaviour", ["refuse", "hang", "babble"])
async def test_an_error_that_a_proxy_caused_names_its_variable(
    behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy(behaviour) as broken:
        monkeypatch.setenv("https_proxy", broken.url)
        async with UserManager("users.example:50051", timeout=1) as users:
            with pytest.raises((UnavailableError, DeadlineExceededError)) as single:
                await users.get("ada")
            with pytest.raises((UnavailableError, DeadlineExceededError)) as stream_error:
                async for _ in users.list_chunked():
                    pass
    assert broken.requests
    for raised in (single, stream_error):
        assert "via the proxy of $https_proxy" in str(raised.value)
        assert "s3cret" not in str(raised.value)
        assert "ann" not in str(raised.value)


async def test_an_error_without_a_proxy_mentions_none() -> None:
    async with serve(stand_in()) as address:
        pass
    assert "https_proxy" not in os.environ
    async with UserManager(address, timeout=0.3) as users:
        with pytest.raises(UnavailableError) as raised:
            await users.get("ada")
    assert "proxy" not in str(raised.value)
