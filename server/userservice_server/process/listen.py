"""Checks the address to listen on, because grpc would share a port that is in use without reporting an error."""

import socket
from ipaddress import IPv6Address, ip_address

from userservice_server.config import Config, ConfigError, Listen


def reserved_port(listen: Listen) -> socket.socket:
    """Checks that no other process uses the port; returns a socket that is bound to it but does not listen.

    While the socket is open, only sockets of the same user that set SO_REUSEPORT can be bound to the port.

    Raises:
        ConfigError: The port is in use, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listen.host.strip("[]"), listen.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignores closed connections in TIME_WAIT
            probe.bind(address)
            address = probe.getsockname()
        reserved = socket.socket(family, kind, protocol)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except OSError as error:
        raise cannot_listen(listen, error.strerror or "no such address") from None
    except UnicodeError:
        raise cannot_listen(listen, "the host is not a valid name (IDNA)") from None
    return reserved


def grpc_address(listen: Listen) -> str:
    """Returns the address in a form that grpc accepts: grpc does not support short IPv4 addresses such as 127.1."""
    if listen.socket is not None:
        return listen.reached_at(0)
    try:
        host = socket.inet_ntoa(socket.inet_aton(listen.host))
    except OSError:  # a name or IPv6
        host = listen.host
    return f"{host}:{listen.port}"


def cannot_listen(listen: Listen, why: str) -> ConfigError:
    """Returns the error for an address that the service cannot listen on."""
    return ConfigError(f"cannot listen on {listen.address}: {why} (--listen)")


def check_exposure(config: Config) -> None:
    """Checks that ``--auth`` is set if other machines can reach the service.

    Raises:
        ConfigError: the address is not a loopback address, and ``--auth`` is not set.
    """
    if config.auth.auth is None and not is_loopback(config.listen):
        raise ConfigError(
            f"--listen {config.listen.address} can be reached from other machines; choose how callers are "
            "authenticated: --auth keys, jwt or mtls, or --auth none if everyone may read and change all users"
        )


def is_loopback(listen: Listen) -> bool:
    """Whether only this machine can reach the address. A host that cannot be resolved is not a loopback address."""
    if listen.socket is not None:
        return True
    try:
        found = socket.getaddrinfo(listen.host.strip("[]"), listen.port, type=socket.SOCK_STREAM)
        addresses = [ip_address(str(address[0]).partition("%")[0]) for *_, address in found]
    except (OSError, UnicodeError, ValueError):
        return False
    return bool(addresses) and all(
        ((isinstance(address, IPv6Address) and address.ipv4_mapped) or address).is_loopback for address in addresses
    )
