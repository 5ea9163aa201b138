"""Parses the addresses of the service."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

_HOST_PORT = r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/?#@,\[\]]+):(?P<port>[0-9]{1,5})/?"
_DNS = rf"dns:(?P<server>//[^\s/?#@,]*/)?(?P<name>{_HOST_PORT})"
_MAX_PORT = 65535
_FORMS = (
    "host:port, http://host:port, https://host:port, dns:///host:port, ipv4:address:port, ipv6:[address]:port, "
    "unix:/path or unix-abstract:name; several addresses are separated by commas"
)
_TLS = {"": None, "http://": False, "https://": True}


class Target(NamedTuple):
    """One address that a channel connects to."""

    name: str
    """The target in gRPC's own syntax."""

    host: str
    """The host name or IP address without brackets; empty for a Unix socket."""

    every_address: bool = False
    """Whether calls are distributed over all addresses of the name, as in the form `dns:`."""


class Address(NamedTuple):
    """A parsed address."""

    targets: tuple[Target, ...]
    """The servers of the service; calls are distributed over them."""

    tls: bool | None
    """Whether the connection is encrypted; None if the address has no `http://` or `https://`."""


def parse_address(address: str) -> Address:
    """Parses an address of the service.

    Args:
        address: One of
            `host:port` (an IPv6 address in brackets);
            `http://host:port` for plain text, `https://host:port` for TLS;
            `dns:///host:port` for all addresses of a name;
            `ipv4:address:port` or `ipv6:[address]:port`; further addresses with ports may follow, after commas;
            `unix:/path` or `unix-abstract:name`, which cannot be combined with other addresses.
            An address may contain several of the forms with a host, separated by commas.

    Returns:
        The parsed address.

    Raises:
        ValueError: If the address has none of these forms. The message lists the forms, and hides a password.
    """
    if not isinstance(address, str):
        raise ValueError(f"an address is a string, not {type(address).__name__}: {_FORMS}")  # noqa: TRY004 - as others
    if address.startswith(("unix:", "unix-abstract:")):
        return Address((_parse_unix(address),), None)
    family = next((family for family in ("ipv4", "ipv6") if address.startswith(f"{family}:")), None)
    if family is not None:
        hosts = address.removeprefix(f"{family}:").split(",")
        return Address(tuple(_parse_ip(address, family, item.strip()) for item in hosts), None)
    targets, encryptions = zip(*(_parse_one(address, item) for item in address.split(",")), strict=True)
    if len(set(encryptions)) > 1:
        raise ValueError(
            f"mixed schemes in {_shown(address)}: all addresses must begin with http://, or all with https://, or none"
        )
    return Address(targets, encryptions[0])


def _parse_unix(address: str) -> Target:
    scheme, _, path = address.partition(":")
    if scheme == "unix":
        path = path.removeprefix("//") if path.startswith("///") else path
    if not path.strip("/") or path.startswith("//"):
        raise ValueError(f"no path in the address {_shown(address)}; expected {_FORMS}")
    if "," in path:
        raise ValueError(f"gRPC does not support a comma in the path of a Unix socket: {_shown(address)}")
    # gRPC parses the address as a URL, in which these characters have a special meaning.
    return Target(f"{scheme}:{re.sub('[%?#]', lambda found: quote(found[0]), path)}", "")


def _parse_ip(address: str, family: str, item: str) -> Target:
    host, port = _parse_host_port(address, item)
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        version = None
    if family != f"ipv{version}":
        raise ValueError(f"{host!r} in the address {_shown(address)} is not an {family} address; expected {_FORMS}")
    return Target(f"{family}:{_join(host, port)}", host)


def _parse_one(address: str, item: str) -> tuple[Target, bool | None]:
    item = item.strip()
    match = re.fullmatch(_DNS, item)
    if match is not None:
        host, port = _parse_host_port(address, match["name"])
        return Target(f"dns:{match['server'] or '///'}{_join(host, port)}", host, every_address=True), None
    scheme = next((scheme for scheme in ("http://", "https://") if item.startswith(scheme)), "")
    if "://" in item and not scheme:
        raise ValueError(f"unknown scheme in the address {_shown(address)}; expected {_FORMS}")
    host, port = _parse_host_port(address, item.removeprefix(scheme))
    return Target(_join(host, port), host), _TLS[scheme]


def _parse_host_port(address: str, text: str) -> tuple[str, str]:
    match = re.fullmatch(_HOST_PORT, text)
    if match is None or not 0 < int(match["port"]) <= _MAX_PORT:
        raise ValueError(f"cannot parse the address {_shown(address)}; expected {_FORMS}")
    return match["host"].strip("[]"), match["port"]


def _shown(address: str) -> str:
    """Formats an address for an error message. The part before an `@` is hidden, because it can contain a password."""
    return repr(re.sub(r"^([a-z]+://)?.*@", r"\1***@", address, flags=re.DOTALL | re.IGNORECASE))


def _join(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@lru_cache(maxsize=16)
def server_of(address: str) -> tuple[str, int | None]:
    """Returns host and port of the address of a manager; the whole address and None if it names several servers."""
    match = re.fullmatch(rf"(https?://|dns:///)?{_HOST_PORT}", address)
    if match is None:
        return address.removeprefix("unix:"), None
    return match["host"].strip("[]"), int(match["port"])


def is_loopback(target: Target) -> bool:
    """Returns whether a target is on this machine, as far as its text shows: no name is resolved."""
    host = target.host.rstrip(".").lower()
    if not host or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # Short forms such as `127.1` are not canonical, but resolve to loopback.
        return re.fullmatch(r"127(\.[0-9]+){0,3}", host) is not None
    if ip.version == 6 and ip.ipv4_mapped is not None:  # noqa: PLR2004 - the version of the protocol
        ip = ip.ipv4_mapped
    # A connection to the unspecified address (0.0.0.0 or ::) also leads to this machine.
    return ip.is_loopback or ip.is_unspecified
