"""The options for the connection to the service, and managers that use them.

A setting comes from its option, else from its environment variable, else from the selected profile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from userservice.cli.exit_codes import USAGE, CommandError
from userservice.cli.help import SectionOption
from userservice.cli.profiles import Profile, check_name, read_profiles

if TYPE_CHECKING:
    from userservice import SyncSessionManager, SyncUserManager

Function = TypeVar("Function", bound=Callable[..., Any])

DEFAULT_ADDRESS = "localhost:50051"
DEFAULT_TIMEOUT = 10.0
SECTION = "Connection options"

_CONTEXT_KEY = "userservice.connection"


class Setting(NamedTuple):
    """A setting of the connection."""

    name: str
    """The name in a profile. The option is the same name with hyphens."""

    variable: str
    """The environment variable; empty if there is none."""

    argument: str
    """The argument of the managers."""

    metavar: str
    help: str


SETTINGS = (
    Setting(
        "address",
        "USERSERVICE_ADDRESS",
        "address",
        "ADDRESS",
        f"HOST:PORT, unix:/PATH, or another address that the clients accept; https:// selects TLS. "
        f"Default: {DEFAULT_ADDRESS}.",
    ),
    Setting(
        "token_file",
        "USERSERVICE_TOKEN_FILE",
        "token",
        "FILE",
        "File with the token or key of the caller. There is no option for the token itself, because other users can "
        "see the arguments of a command; USERSERVICE_TOKEN can contain it.",
    ),
    Setting(
        "tls_ca",
        "USERSERVICE_CA",
        "ca",
        "FILE",
        "File with the authorities that sign the certificate of the service (PEM).",
    ),
    Setting("tls_cert", "USERSERVICE_CERT", "cert", "FILE", "File with the client certificate and its chain (PEM)."),
    Setting("tls_key", "USERSERVICE_KEY", "key", "FILE", "File with the private key of the client certificate (PEM)."),
)


def connection_options(function: Function) -> Function:
    """Adds the options for the connection to a command."""
    options = [
        _option(
            f"--{setting.name.replace('_', '-')}",
            metavar=setting.metavar,
            help=f"{setting.help} [variable: {setting.variable}]",
        )
        for setting in SETTINGS
    ]
    options += [
        _option(
            "--allow-insecure-token",
            is_flag=True,
            default=None,
            help="Send the token without TLS to other machines. Anyone on the network can then read and use it.",
        ),
        _option(
            "--timeout",
            type=click.FloatRange(0, min_open=True),
            metavar="SECONDS",
            help=f"Timeout of each call, including retries; for a stream, of each chunk. Default: {DEFAULT_TIMEOUT:g}.",
        ),
        _option(
            "--profile",
            metavar="NAME",
            help="Profile with the settings that are neither options nor variables; see userservice profile --help. "
            "[variable: USERSERVICE_PROFILE]",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _option(name: str, **settings: Any) -> Callable[[Function], Function]:
    return click.option(name, cls=SectionOption, section=SECTION, expose_value=False, callback=_keep, **settings)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    context.meta.setdefault(_CONTEXT_KEY, {})[parameter.name] = value


def given_options(context: click.Context) -> Profile:
    """Returns the settings that were given as options."""
    options: dict[str, Any] = context.meta.get(_CONTEXT_KEY, {})
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def users_manager() -> Iterator[SyncUserManager]:
    """Opens the manager of users for the current command.

    Raises:
        CommandError: If a setting is invalid.
    """
    from userservice import SyncUserManager  # noqa: PLC0415 - takes long, and is not needed for --help

    with _open(SyncUserManager) as manager:
        yield manager


@contextmanager
def sessions_manager() -> Iterator[SyncSessionManager]:
    """Opens the manager of sessions for the current command; see `users_manager`."""
    from userservice import SyncSessionManager  # noqa: PLC0415

    with _open(SyncSessionManager) as manager:
        yield manager


Manager = TypeVar("Manager", "SyncUserManager", "SyncSessionManager")


def _open(kind: type[Manager]) -> Manager:
    try:
        return kind(**_arguments(click.get_current_context()))
    except (ValueError, TypeError) as error:
        raise CommandError(f"invalid connection settings: {error}", USAGE) from None


def _arguments(context: click.Context) -> dict[str, Any]:
    """Returns the arguments of the manager."""
    options = given_options(context)
    profile = _profile(options.pop("profile", None))
    given = {**profile, **options}
    arguments: dict[str, Any] = {name: given[name] for name in ("timeout", "allow_insecure_token") if name in given}
    for setting in SETTINGS:
        value = options.get(setting.name) or os.environ.get(setting.variable) or profile.get(setting.name)
        if value and setting.name != "token_file":
            arguments[setting.argument] = value
    token = _token(options.get("token_file"), profile.get("token_file"))
    return arguments if token is None else {**arguments, "token": token}


def _token(option: str | None, of_profile: str | None) -> Any:
    """Returns the token, a callable that reads it from a file, or None."""
    from userservice._environment import settings_from_environment  # noqa: PLC0415 - imports grpc
    from userservice._token import TokenFile  # noqa: PLC0415

    if option is None:
        token = settings_from_environment().get("token")
        if token is not None:
            return token
    path = option or of_profile
    return TokenFile(path) if path else None


def _profile(name: str | None) -> Profile:
    """Returns the settings of the selected profile.

    Raises:
        CommandError: If the profile does not exist, or the file is invalid.
    """
    name = name or os.environ.get("USERSERVICE_PROFILE") or None
    profiles = read_profiles()
    if name is not None:
        return profiles.find(check_name(name))
    return profiles.profiles[profiles.default] if profiles.default is not None else {}
