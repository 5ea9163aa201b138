"""Parses and checks the URL of the store. Error texts never contain the URL, because the URL can contain a password."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Self
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit, urlunsplit

from userservice_server.config.error import ConfigError

_DATABASE_PATH = re.compile(r"(/[0-9]*)?/?")
_SENTINEL_PATH = re.compile(r"/(?P<service>[A-Za-z0-9._-]+)(?P<database>/[0-9]*)?/?")
_CLUSTER_PATH = re.compile(r"(/0?)?")
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\],@/]+)(:(?P<port>[0-9]{1,5}))?")
_MAX_PORT = 65535
_URL_OPTIONS = frozenset(("db", "username", "password"))
_SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}


_SERVER_PORT, _SENTINEL_PORT = 6379, 26379


class Topology(Enum):
    """How the servers of the store are organised."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES = {
    "redis": (Topology.SINGLE, "redis"),
    "rediss": (Topology.SINGLE, "rediss"),
    "unix": (Topology.SINGLE, "unix"),
    "redis-sentinel": (Topology.SENTINEL, "redis"),
    "rediss-sentinel": (Topology.SENTINEL, "rediss"),
    "redis-cluster": (Topology.CLUSTER, "redis"),
    "rediss-cluster": (Topology.CLUSTER, "rediss"),
}


def unreadable_redis_url() -> ConfigError:
    """Returns the error for an invalid URL."""
    return ConfigError(
        "--redis-url must be a URL such as redis://HOST:PORT/0, rediss://…, unix:///PATH, "
        "redis-sentinel://HOST:PORT,HOST:PORT/NAME or redis-cluster://HOST:PORT,HOST:PORT"
    )


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """The parts of a valid URL of the store.

    Attributes:
        topology: how the servers of the store are organised.
        server: URL of one server with the options of all servers, in a form that redis-py accepts. Can contain a
            password, so it is not in the repr.
        addresses: hosts and ports of the Sentinels, or of some nodes of the cluster; empty for a single server.
        service: the name under which the Sentinels monitor the primary.
        sentinel_credentials: ``username`` and ``password`` for the Sentinels.
    """

    topology: Topology
    server: str = field(repr=False)
    addresses: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_credentials: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parses and checks a URL.

        Raises:
            ConfigError: redis-py would misread the URL, or would report the error only when it connects.
        """
        try:
            parts = urlsplit(url)
            options = parse_qs(parts.query, keep_blank_values=True)
            topology, scheme = _SCHEMES.get(parts.scheme, (Topology.SINGLE, parts.scheme))
            if topology is Topology.SINGLE:
                _ = (parts.hostname or "").encode("idna"), parts.port
                addresses: tuple[tuple[str, int], ...] = ()
            else:
                addresses = _addresses(parts.netloc.rpartition("@")[2], _port_of(topology))
        except ValueError:  # or its subclass UnicodeError
            raise unreadable_redis_url() from None
        allowed = _URL_OPTIONS | (_SENTINEL_OPTIONS.keys() if topology is Topology.SENTINEL else set())
        if any(name not in allowed and not name.startswith("ssl_") for name in options):
            raise ConfigError(
                "--redis-url has an unknown option; the known options are db, username, password and ssl_*"
            )
        if topology is Topology.SINGLE:
            if parts.scheme in ("redis", "rediss") and not _DATABASE_PATH.fullmatch(parts.path):
                raise ConfigError("--redis-url must end with a database number, as in redis://HOST:PORT/0")
            return cls(topology, url)
        if topology is Topology.CLUSTER:
            if not _CLUSTER_PATH.fullmatch(parts.path) or options.get("db", ["0"]) != ["0"]:
                raise ConfigError("--redis-url must not have a database number: a cluster has only database 0")
            return cls(topology, _server_url(parts, scheme, "", options), addresses)
        path = _SENTINEL_PATH.fullmatch(parts.path)
        if path is None:
            raise ConfigError(
                "--redis-url must end with the name of the primary, as in redis-sentinel://HOST:PORT/NAME"
            )
        credentials = {name: options[option][0] for option, name in _SENTINEL_OPTIONS.items() if option in options}
        server = _server_url(parts, scheme, path["database"] or "", options)
        return cls(topology, server, addresses, path["service"], credentials)


def _port_of(topology: Topology) -> int:
    return _SENTINEL_PORT if topology is Topology.SENTINEL else _SERVER_PORT


def _addresses(text: str, default_port: int) -> tuple[tuple[str, int], ...]:
    """Parses HOST:PORT,HOST:PORT; raises ValueError if an address is invalid."""
    found = [_ADDRESS.fullmatch(address) for address in text.split(",")]
    addresses = [(address["host"].strip("[]"), int(address["port"] or default_port)) for address in found if address]
    if len(addresses) < len(found) or any(port > _MAX_PORT for _, port in addresses):
        raise ValueError("an address is not HOST:PORT")
    for host, _ in addresses:
        host.encode("idna")
    return tuple(addresses)


def _server_url(parts: SplitResult, scheme: str, database: str, options: Mapping[str, list[str]]) -> str:
    """Returns a URL with the first address, and with the options for servers only."""
    credentials, at, addresses = parts.netloc.rpartition("@")
    query = urlencode({name: values for name, values in options.items() if name not in _SENTINEL_OPTIONS}, doseq=True)
    return urlunsplit((scheme, f"{credentials}{at}{addresses.partition(',')[0]}", database, query, ""))


def has_password(redis_url: str) -> bool:
    """Returns whether a valid URL contains a password."""
    parts = urlsplit(redis_url)
    options = parse_qs(parts.query)
    return bool(parts.password or options.get("password") or options.get("sentinel_password"))


def check_redis_url(url: str) -> None:
    """Raises ConfigError if a URL is invalid; see ``StoreUrl.parse``."""
    StoreUrl.parse(url)
