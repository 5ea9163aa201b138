"""The settings of a manager in environment variables, for `from_env`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypedDict

from userservice._token import TokenFile, bearer, hidden
from userservice.hooks import OnCall


class EnvironmentOptions(TypedDict, total=False):
    """The options of `from_env`, in addition to the settings in environment variables."""

    connections: int
    timeout: float
    retries: int | None
    channel_options: Sequence[tuple[str, Any]]
    metadata: Sequence[tuple[str, str | bytes]]
    allow_insecure_token: bool
    on_call: OnCall
    share_reads: bool
    """Only for `UserManager` and `SyncUserManager`."""


def settings_from_environment() -> dict[str, Any]:
    """Returns the arguments of a manager that are set by environment variables. An empty variable is treated as absent.

    Raises:
        ValueError: If both USERSERVICE_TOKEN and USERSERVICE_TOKEN_FILE are set, or the token is invalid.
    """
    names = {name: os.environ.get(f"USERSERVICE_{name.upper()}") for name in ("address", "ca", "cert", "key")}
    settings: dict[str, Any] = {name: value for name, value in names.items() if value}
    token, path = os.environ.get("USERSERVICE_TOKEN"), os.environ.get("USERSERVICE_TOKEN_FILE")
    if token and path:
        raise ValueError("USERSERVICE_TOKEN and USERSERVICE_TOKEN_FILE exclude each other")
    if token:
        settings["token"] = token = hidden(token)
        bearer(token, "USERSERVICE_TOKEN")
    elif path:
        settings["token"] = TokenFile(path)
    return settings
