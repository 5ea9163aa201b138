"""Clients that ping every 5 or 10 s keep their connections and streams, with and without running calls.

The time is that of the promise: grpc closes a connection at the third strike, so a client that pings every 10 s has to
be watched for more than 40 s. The clients run side by side, and mostly sleep.
"""

import asyncio
import time
from collections.abc import Iterator

import grpc
import pytest
from harness.connections import connect
from harness.foreign import ForeignClient
from harness.population import fill, struct
from harness.services import Service
from harness.stores import Store

from loadgen.http2 import Connection, frame
from userservice.v1.user_service_pb2 import ListUsersChunkedRequest, ListUsersRequest

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]  # the first test builds the clients

SECONDS = 65
USERS = 1600
RECORD = struct({"k": "x" * 40_000})  # 64 MB in all: more than the clients' windows take ahead of a slow reader
PING = 6
PYTHON_KEEPALIVE = (("grpc.keepalive_time_ms", 5000), ("grpc.keepalive_permit_without_calls", 1))


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Store() as store:
        fill(store, (f"u{number}" for number in range(USERS)), metadata=RECORD)
        with Service(redis_url=store.url) as service:
            yield service
            assert service.stop() == 0


async def foreign(client: ForeignClient, case: str, service: Service) -> dict[str, object]:
    found: dict[str, object] = await asyncio.to_thread(client.run, case, service.address, SECONDS, within=200)
    return found


async def test_idle_connections_are_kept(clients: list[ForeignClient], service: Service) -> None:
    ok = {"code": "OK"}
    python, _, found = await asyncio.gather(
        python_idle(service),
        asyncio.to_thread(ping_every_five_seconds, service.port),
        asyncio.gather(*(foreign(client, "idle", service) for client in clients)),
    )
    for client, result in zip(clients, found, strict=True):
        assert result["outcomes"] == [ok, ok], client.name
        assert result.get("connections", 1) == 1, f"{client.name} had to connect again"
    assert python == [grpc.ChannelConnectivity.READY], "the Python client lost its connection"


async def python_idle(service: Service) -> list[grpc.ChannelConnectivity]:
    """Returns the states of a channel from its first call on."""
    async with connect(service.address, *PYTHON_KEEPALIVE) as stubs:
        await stubs.users.ListUsers(ListUsersRequest(limit=1))
        states = [stubs.channel.get_state()]
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if (state := stubs.channel.get_state()) is not states[-1]:
                states.append(state)
            await asyncio.sleep(0.1)
    return states


def ping_every_five_seconds(port: int) -> None:
    """Pings at exactly 5.00 s, the shortest interval that the contract allows; a GOAWAY raises."""
    connection = Connection(port)
    start = time.monotonic()
    for number in range(SECONDS // 5):
        connection.socket.sendall(frame(PING, 0, 0, bytes(8)))
        while not any(received.kind == PING for received in list(connection.frames())):
            pass
        time.sleep(max(0.0, start + 5 * (number + 1) - time.monotonic()))
    connection.close()


async def test_the_stream_of_a_slow_reader_stays_open(clients: list[ForeignClient], service: Service) -> None:
    python, found = await asyncio.gather(
        python_slow_stream(service),
        asyncio.gather(*(foreign(client, "slow-stream", service) for client in clients)),
    )
    for client, result in zip(clients, found, strict=True):
        assert result["outcome"] == {"code": "OK"}, client.name
        assert result["users"] == USERS, client.name
    assert python == USERS
    assert not [line for line in service.log if line.get("code") not in {None, "OK"}]


async def python_slow_stream(service: Service) -> int:
    async with connect(service.address, *PYTHON_KEEPALIVE, ("grpc.http2.bdp_probe", 0)) as stubs:
        seen = 0
        async for chunk in stubs.users.ListUsersChunked(ListUsersChunkedRequest(chunk_size=1000)):
            if not seen:
                await asyncio.sleep(SECONDS)
            seen += len(chunk.users)
    return seen
