"""HTTP proxies between the client and the service, which gRPC takes from environment variables.

gRPC itself decides whether a connection goes through a proxy, and its errors do not mention the proxy. This module
makes the same decision for two purposes: to disable proxies for addresses of this machine, and to name the variable in
errors. The value of the variable never appears in an error, because it can contain a password.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from userservice._address import Target, is_loopback

# The names in gRPC's own order. gRPC uses the first variable that is set, even if it is empty, and no upper-case names.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTION_VARIABLES = ("no_grpc_proxy", "no_proxy")

NO_PROXY_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.enable_http_proxy", 0),
    # The same for the proxies that GRPC_ADDRESS_HTTP_PROXY assigns to single addresses.
    ("grpc.address_http_proxy_enabled_addresses", ""),
)


def proxy_options(target: Target) -> tuple[tuple[str, Any], ...]:
    """Returns the channel options that disable proxies for targets on this machine; empty for other targets."""
    return NO_PROXY_OPTIONS if is_loopback(target) else ()


def proxy_of(target: Target, options: Sequence[tuple[str, Any]]) -> str:
    """Returns the source of the proxy of a new channel, such as `$https_proxy`; empty if the channel connects directly.

    Args:
        target: The target of the channel.
        options: All options of the channel.
    """
    chosen = dict(options)
    if not chosen.get("grpc.enable_http_proxy", 1) or not target.host:
        return ""
    if "grpc.http_proxy" in chosen:
        source, value = "the channel option grpc.http_proxy", str(chosen["grpc.http_proxy"])
    else:
        variable = next((name for name in _PROXY_VARIABLES if name in os.environ), "")
        source, value = f"${variable}", os.environ.get(variable, "")
    return source if _is_usable(value) and not _is_excepted(target.host) else ""


def _is_usable(value: str) -> bool:
    # gRPC ignores a proxy that it cannot use, and connects directly.
    try:
        parts = urlsplit(value)
        return parts.scheme == "http" and bool(parts.hostname)
    except ValueError:
        return False


def _is_excepted(host: str) -> bool:
    variable = next((name for name in _EXCEPTION_VARIABLES if name in os.environ), "")
    entries = (entry.strip() for entry in os.environ.get(variable, "").split(","))
    return any(entry and (host.lower().endswith(entry.lower()) or _is_in_network(host, entry)) for entry in entries)


def _is_in_network(host: str, entry: str) -> bool:
    if "/" not in entry:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
