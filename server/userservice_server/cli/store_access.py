"""Runs a command on an open store, for commands that act on the store of running servers."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from userservice_server.cli.options import URL_IS_VISIBLE, Command, config_of, setting, shows_password
from userservice_server.config import Config, ConfigError, Store
from userservice_server.embedded.socket_directory import SOCKET_NAME
from userservice_server.embedded.store import APPEND_ONLY_DIRECTORY, EmbeddedStore
from userservice_server.errors import ServiceError
from userservice_server.process.standard_streams import print_error
from userservice_server.process.store_opening import open_store
from userservice_server.store.failures import UnsuitableStoreError
from userservice_server.store.redis_store import RedisStore
from userservice_server.store.supervision import START_SECONDS

Act = Callable[[RedisStore], Awaitable[str]]
"""Acts on a store, and returns the text to print."""


def of_store(command: Command) -> Command:
    """Adds the options that name a store."""
    for option in (
        setting("store-timeout", click.FloatRange(0.1, 60), "Timeout in seconds for connecting and for each reply."),
        setting("key-prefix", str, "Prefix of all keys in Redis."),
        setting("data-dir", click.Path(path_type=Path), "Data directory of an embedded store."),
        setting("redis-url-file", click.Path(path_type=Path), "File that contains the URL, as for serve."),
        setting("redis-url", str, "URL of the store, as for serve. Without a URL, the store in --data-dir."),
    ):
        command = option(command)
    return command


def run_on_store(context: click.Context, settings: dict[str, Any], act: Act) -> str:
    """Opens the store that the options name, and runs ``act`` on it."""
    config = config_of(context, settings)
    if shows_password(context, config):
        print_error(f"userservice: warning: {URL_IS_VISIBLE}")
    with _url_of(config) as url:
        return asyncio.run(_act(replace(config.store, redis_url=url), act))


@contextmanager
def _url_of(config: Config) -> Iterator[str]:
    """Yields the URL of the store; starts the embedded store unless a service runs it."""
    if config.store.redis_url is not None:
        yield config.store.redis_url
        return
    directory = config.store.data_dir.absolute()
    if not (directory / APPEND_ONLY_DIRECTORY).is_dir():
        raise ConfigError(f"there is no store in --data-dir {config.store.data_dir}")
    if _is_served(directory / SOCKET_NAME):
        yield f"unix://{quote(str(directory / SOCKET_NAME))}"
        return
    with EmbeddedStore(config.store.data_dir, config.store.fsync) as store:
        yield store.url


def _is_served(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
    except OSError:
        return False
    return True


async def _act(settings: Store, act: Act) -> str:
    store = await open_store(settings, lambda: False, lambda: None, START_SECONDS, None)
    try:
        return await act(store)
    except UnsuitableStoreError as error:
        raise ConfigError(str(error)) from error
    except ServiceError as error:
        raise ConfigError(f"the store cannot be used: {error}") from error
    finally:
        await store.close()
