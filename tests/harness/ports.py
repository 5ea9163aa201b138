"""Ports for servers that must be stopped and started at one address."""

import itertools
import os
import socket
from collections.abc import Iterator

_PORTS = range(20_000, 30_000)
"""Below the ports that systems choose for clients and for servers that listen on port 0."""

_next: Iterator[int] = itertools.cycle((*_PORTS[os.getpid() % len(_PORTS) :], *_PORTS[: os.getpid() % len(_PORTS)]))
_reservations: list[socket.socket] = []


def free_port() -> int:
    """Returns a TCP port of 127.0.0.1 that no other test uses until this process ends.

    The UDP port of the same number is bound until then, so that other test processes do not use the port.
    """
    for port in _next:
        reservation = socket.socket(type=socket.SOCK_DGRAM)
        try:
            reservation.bind(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port)):
                pass
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        return port
    raise AssertionError("unreachable: the iteration has no end")
