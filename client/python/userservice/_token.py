"""The token of a manager: its checks, its header, and the addresses to which the token is not sent."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

import grpc

from userservice._address import Target
from userservice._headers import Headers

AUTHORIZATION = "authorization"

Source = TypeVar("Source")

_LIKE_TOKEN = re.compile("usk_|eyJ")  # the beginning of a key or a JWT
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Secret(str):
    """A text that `repr` does not show, because tools that report local variables or headers use `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def hidden(token: Source) -> Source:
    """Returns a string token in a form that `repr` does not show; returns other sources unchanged."""
    return cast(Source, Secret(token)) if isinstance(token, str) else token


def bearer(token: object, source: str = "token") -> Secret:
    """Returns the value of the header `authorization`.

    Args:
        token: The token.
        source: Where the token comes from, for the error message.

    Raises:
        TypeError: If the token is not a string. The message contains only the type.
        ValueError: If the token is empty or not valid in a header. The message does not contain the token.
    """
    token = hidden(token)
    if not isinstance(token, str):
        raise TypeError(f"{source} must be a string, not {type(token).__name__}")
    if _TOKEN.fullmatch(token) is None:
        raise ValueError(f"{source} is empty or contains characters other than printable ASCII, such as a line break")
    return Secret(f"Bearer {token}")


def check_token(token: object, metadata: Headers) -> None:
    """Checks the token option of a manager.

    Raises:
        TypeError: If the token is neither a string nor callable.
        ValueError: If the token is not valid in a header, or the metadata contains another credential.
    """
    if not callable(token):
        if not isinstance(token, str):
            raise TypeError(f"token must be a string or a callable, not {type(token).__name__}")
        bearer(token)
    if has_credential(metadata):
        raise ValueError("token and the key 'authorization' in metadata exclude each other")


def has_credential(metadata: Headers) -> bool:
    """Returns whether the metadata contains the header `authorization`."""
    return any(key == AUTHORIZATION for key, _ in metadata)


def is_insecure(credentials: grpc.ChannelCredentials | None) -> bool:
    """Returns whether channel credentials do not encrypt, as those of `grpc.experimental`."""
    return type(getattr(credentials, "_credentials", None)).__name__ == "InsecureChannelCredentials"


def check_plaintext(targets: Sequence[Target]) -> None:
    """Rejects a token for connections without encryption, unless they stay on this machine.

    Raises:
        ValueError: If a target is not a Unix socket, a literal loopback address or `localhost`.
    """
    host = next((target.host for target in targets if not _is_surely_loopback(target)), None)
    if host is not None:
        raise ValueError(
            f"a token is not sent without TLS to {host!r}, which is not a loopback address: use https:// or the option "
            "ca, or set allow_insecure_token=True if the network is trusted"
        )


def _is_surely_loopback(target: Target) -> bool:
    # This check is stricter than `is_loopback`, which decides whether a proxy is used: a DNS server may resolve names
    # such as `a.localhost` and `127.1` to other machines.
    if not target.host:
        return True
    if target.host.lower() == "localhost":
        # In `dns://server/localhost:1`, the named DNS server resolves `localhost`, possibly to another machine.
        return not target.name.startswith("dns://") or target.name.startswith("dns:///")
    try:
        ip = ipaddress.ip_address(target.host)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


class TokenFile:
    """A callable that returns the token in a file. It reads the file each time, so that it returns a changed token.

    Args:
        path: The file. White space around the token is ignored.

    Raises:
        ValueError: If the file cannot be read, or contains no token.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._last = self._read()

    def _read(self) -> Secret:
        try:
            text = self._path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            raise ValueError(f"the token file {self._path} is not a text file") from None
        except OSError as error:
            # The setting may contain the token instead of the path.
            name = "" if _LIKE_TOKEN.match(str(self._path)) else f" {self._path}"
            raise ValueError(f"cannot read the token file{name}: {error.strerror}") from None
        bearer(text, f"the token in {self._path}")
        return Secret(text)

    def __call__(self) -> str:
        """Returns the token, or the last token while the file is absent or invalid because it is being replaced."""
        with suppress(ValueError):
            self._last = self._read()
        return self._last

    def __repr__(self) -> str:
        return f"<TokenFile {self._path}>"
