"""Connections that are replaced while commands wait for them."""

import socket

import pytest
from harness.ports import free_port
from harness.stores import Store
from redis.asyncio.connection import Connection

from userservice_server.errors import StoreUnavailableError
from userservice_server.store.connection import Send, SharedConnection, UnfitForWaitingError

TIMEOUT = 10.0


async def accept(_send: Send) -> None:
    """Admits every server."""


async def admit_later_commands(_send: Send) -> None:
    raise UnfitForWaitingError from ConnectionError("another layout")


def line(port: int, admit: object = accept) -> SharedConnection:
    return SharedConnection(lambda: Connection(port=port), admit, TIMEOUT)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_fit", [True, False])
async def test_commands_that_wait_for_a_connection_move_only_to_a_fit_successor(*, is_fit: bool) -> None:
    # A server that never accepts: the kernel makes the connection, and nothing answers.
    with socket.create_server(("127.0.0.1", 0)) as silent, Store(port=free_port()) as store:
        old = line(silent.getsockname()[1])
        successor = line(store.port or 0, accept if is_fit else admit_later_commands)
        try:
            write = old.send("SET", "key", "value")
            first = successor.send("ECHO", "waits for the connection")
            if is_fit:
                assert await first == b"waits for the connection"
            else:
                with pytest.raises(StoreUnavailableError):
                    await first
            old.retire(successor)
            assert await successor.send("ECHO", "later") == b"later"
            if is_fit:
                assert await write == b"OK"
            else:
                with pytest.raises(StoreUnavailableError):
                    await write
            assert await successor.send("EXISTS", "key") == int(is_fit)
        finally:
            await old.close()
            await successor.close()
