"""Connections that may be used for reads only, and connections that are replaced while commands wait for them."""

import socket

import pytest
from harness.ports import free_port
from harness.stores import Store
from redis.asyncio.connection import Connection

from userservice_server.errors import StoreUnavailableError
from userservice_server.store.connection import Send, SharedConnection, UnfitForWritesError
from userservice_server.store.links import Pair

TIMEOUT = 10.0


async def accept(_send: Send) -> None:
    """Admits every server."""


async def accept_for_reads(_send: Send) -> None:
    raise UnfitForWritesError from ConnectionError("another layout")


def line(port: int, admit: object = accept) -> SharedConnection:
    return SharedConnection(lambda: Connection(port=port), admit, TIMEOUT)  # type: ignore[arg-type]


async def test_a_connection_that_is_not_fit_for_writes_sends_reads_only() -> None:
    with Store(port=free_port()) as store:
        connection = line(store.port or 0, accept_for_reads)
        try:
            for write in (connection.send_write("SET", "key", "waits"), connection.send("ECHO", "waits, too")):
                with pytest.raises(StoreUnavailableError):
                    await write
            assert await connection.send("ECHO", "later") == b"later"
            with pytest.raises(StoreUnavailableError):
                await connection.send_write("SET", "key", "later")
            assert await connection.send("EXISTS", "key") == 0
        finally:
            await connection.close()


async def test_the_health_check_fails_while_a_connection_is_not_fit_for_writes() -> None:
    """The service then makes new connections, which may lead to another server."""

    async def probe(send: Send, _partition: int, _waits: bool) -> object:  # noqa: FBT001 - as Probe has it
        await send("ECHO", "text")
        return 1

    with Store(port=free_port()) as store:
        fit, unfit = line(store.port or 0), line(store.port or 0, accept_for_reads)
        try:
            with pytest.raises(StoreUnavailableError):
                await unfit.send("ECHO", "waits")
            await Pair(fit, fit, fit).probe(probe, 0)
            with pytest.raises(StoreUnavailableError):
                await Pair(fit, fit, unfit).probe(probe, 0)
        finally:
            await fit.close()
            await unfit.close()


async def test_commands_that_wait_for_a_connection_move_to_its_successor() -> None:
    # A server that never accepts: the kernel makes the connection, and nothing answers.
    with socket.create_server(("127.0.0.1", 0)) as silent, Store(port=free_port()) as store:
        old, successor = line(silent.getsockname()[1]), line(store.port or 0)
        try:
            write = old.send_write("SET", "key", "value")
            assert await successor.send("ECHO", "waits for the connection") == b"waits for the connection"
            old.retire(successor)
            assert await write == b"OK"
        finally:
            await old.close()
            await successor.close()
