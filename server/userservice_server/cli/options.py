"""Options, settings and exit codes that several commands share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from userservice_server.config import Config, ConfigError, Store, has_password
from userservice_server.config.secret_files import read_secret
from userservice_server.config.settings import default_of

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_ENDED, EXIT_CANNOT_START, EXIT_INTERRUPTED = 1, 2, 130
EXIT_FINDINGS = 1
URL_IS_VISIBLE = (
    "the password in --redis-url is visible to other users in the list of processes; "
    "use --redis-url-file or USERSERVICE_REDIS_URL"
)


def setting(name: str, kind: object, description: str) -> Callable[[Command], Command]:
    """Returns an option for a setting, with its environment variable and default."""
    flag = name.replace("-", "_")
    return click.option(
        f"--{name}",
        type=kind,
        envvar=f"USERSERVICE_{flag.upper()}",
        default=default_of(flag),
        show_default=True,
        show_envvar=True,
        help=description,
    )


def config_of(context: click.Context, flags: dict[str, Any]) -> Config:
    """Returns the settings; reads the URL from --redis-url-file if that option is set.

    If one of the options for the URL is a flag and the other one an environment variable, the flag takes precedence.

    Raises:
        ConfigError: A setting is invalid, or the file with the URL cannot be used.
    """
    config = Config.from_flags(flags)
    return replace(config, store=_with_url_of_file(context, config.store))


def _with_url_of_file(context: click.Context, store: Store) -> Store:
    if store.redis_url_file is None:
        return store
    if store.redis_url is not None:
        is_flag = {
            name: context.get_parameter_source(name) is ParameterSource.COMMANDLINE
            for name in ("redis_url", "redis_url_file")
        }
        if is_flag["redis_url"] == is_flag["redis_url_file"]:
            raise ConfigError("use either --redis-url or --redis-url-file, not both")
        if is_flag["redis_url"]:
            return store
    return replace(store, redis_url=read_secret(store.redis_url_file, "--redis-url-file"))


def shows_password(context: click.Context, config: Config) -> bool:
    """Returns whether the list of processes shows the password of the URL."""
    is_flag = context.get_parameter_source("redis_url") is ParameterSource.COMMANDLINE
    url = config.store.redis_url
    return is_flag and url is not None and has_password(url)
