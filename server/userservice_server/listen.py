"""The address to listen on, tried before grpc does: grpc shares a taken port silently, or tells in lines of its own."""

import socket

from userservice_server.config import Config, ConfigError


def reserved_port(config: Config) -> socket.socket:
    """Makes sure that the port is nobody else's; returns a socket that is bound to it but does not listen.

    As long as the socket is open, nobody but sockets with SO_REUSEPORT of the same user can have the port.

    Raises:
        ConfigError: the port is taken, or the host is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host.strip("[]"), config.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else old connections count as taken, too
            probe.bind(address)
            address = probe.getsockname()
        reserved = socket.socket(family, kind, protocol)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except OSError as error:
        raise cannot_listen(config, error.strerror or "no such address") from None
    except UnicodeError:
        raise cannot_listen(config, "IDNA cannot encode the host") from None
    return reserved


def cannot_listen(config: Config, why: str) -> ConfigError:
    """The error for an address that cannot be had."""
    return ConfigError(f"--listen {config.listen} cannot be had: {why}")
