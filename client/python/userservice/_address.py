"""Addresses of the service, as a user writes them."""

from __future__ import annotations

import re
from typing import NamedTuple

_HOST_PORT = r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/?#@\[\]]+):(?P<port>[0-9]{1,5})/?"
_MAX_PORT = 65535
_FORMS = "host:port, http://host:port, https://host:port or unix:/path"


class Address(NamedTuple):
    """A parsed address."""

    target: str
    """What gRPC connects to."""

    tls: bool | None
    """Whether the connection is encrypted; None if the address does not say."""


def parse_address(address: str) -> Address:
    """Parses an address of the service.

    Args:
        address: `host:port` (an IPv6 address in brackets), `http://host:port` for plain text, `https://host:port`
            for TLS, or `unix:/path`.

    Returns:
        The address in parts.

    Raises:
        ValueError: If the address is of none of these forms; says which there are.
    """
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        path = path.removeprefix("//") if path.startswith("///") else path
        if not path.strip("/") or path.startswith("//"):
            raise ValueError(f"no path in the address {address!r}; expected {_FORMS}")
        return Address(f"unix:{path}", None)
    scheme, separator, rest = address.rpartition("://")
    if separator and scheme not in ("http", "https"):
        raise ValueError(f"unknown scheme in the address {address!r}; expected {_FORMS}")
    match = re.fullmatch(_HOST_PORT, rest if separator else address.removesuffix("/"))
    if match is None or not 0 < int(match["port"]) <= _MAX_PORT:
        raise ValueError(f"cannot read the address {address!r}; expected {_FORMS}")
    return Address(f"{match['host']}:{match['port']}", {"": None, "http": False, "https": True}[scheme])
