"""grpc closes connections that ping too often. foreign/test_keepalive.py tests ordinary clients."""

from collections.abc import Iterator

import pytest
from harness.connections import health
from harness.services import Service
from harness.stores import Store

from loadgen.errors import LoadError
from loadgen.http2 import Connection, frame

PING = 6


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Store() as store, Service(redis_url=store.url) as service:
        yield service


def ping_all_the_time(connection: Connection) -> None:
    for _ in range(1000):
        connection.socket.sendall(frame(PING, 0, 0, bytes(8)))
        list(connection.frames())


def test_a_flood_of_pings_ends_only_its_own_connection(service: Service) -> None:
    connection = Connection(service.port)
    with pytest.raises((LoadError, ConnectionError)):
        ping_all_the_time(connection)
    connection.close()
    assert health(service.address) == "SERVING"
