"""``userservice feed``: turns the feed of changes on and off."""

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
from userservice_server.store.feed import DEFAULT_MAX_ENTRIES, DEFAULT_RETENTION, FeedSettings, RedisFeed
from userservice_server.store.supervision import START_SECONDS

_LEAST_RETENTION = 60.0
_MOST_RETENTION = 365 * 24 * 3600.0
_LEAST_ENTRIES, _MOST_ENTRIES = 1000, 1_000_000_000


def _of_store(command: Command) -> Command:
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


@click.group("feed")
def feed_command() -> None:
    """Turn the feed of changes on and off, which `userservice users watch` and WatchUsers read.

    The feed is off in a new store. It belongs to the store, so the commands act on all servers of the store at once.
    While the feed is on, every write adds an entry of about 25 bytes, and servers of an earlier version of the service
    reject the store.
    """


@feed_command.command("on")
@_of_store
@click.option(
    "--watch-retention",
    type=click.FloatRange(_LEAST_RETENTION, _MOST_RETENTION),
    default=DEFAULT_RETENTION,
    show_default=True,
    envvar="USERSERVICE_WATCH_RETENTION",
    show_envvar=True,
    help="Seconds for which the feed keeps changes, and the user_ids of deleted users.",
)
@click.option(
    "--watch-max-entries",
    type=click.IntRange(_LEAST_ENTRIES, _MOST_ENTRIES),
    default=DEFAULT_MAX_ENTRIES,
    show_default=True,
    envvar="USERSERVICE_WATCH_MAX_ENTRIES",
    show_envvar=True,
    help="Number of changes that the feed keeps.",
)
@click.pass_context
def feed_on(context: click.Context, /, *, watch_retention: float, watch_max_entries: int, **settings: Any) -> None:
    """Turn the feed on, or change its limits. Exit codes: 0 success, 2 the store cannot be used.

    Stop servers of an earlier version of the service first.
    """
    limits = FeedSettings(watch_max_entries, watch_retention)

    async def turn_on(feed: RedisFeed) -> str:
        return "the feed is on" if await feed.turn_on(limits) else "the feed was on already; its limits were set"

    click.echo(_run(context, settings, turn_on))


@feed_command.command("off")
@_of_store
@click.pass_context
def feed_off(context: click.Context, /, **settings: Any) -> None:
    """Turn the feed off and remove its entries. All resume tokens expire, also if the feed is turned on again."""

    async def turn_off(feed: RedisFeed) -> str:
        return "the feed is off" if await feed.turn_off() else "the feed was off already"

    click.echo(_run(context, settings, turn_off))


@feed_command.command("status")
@_of_store
@click.pass_context
def feed_status(context: click.Context, /, **settings: Any) -> None:
    """Print whether the feed is on, and its limits."""

    async def describe(feed: RedisFeed) -> str:
        limits = await feed.settings()
        if limits is None:
            return "the feed is off"
        return f"the feed is on: {limits.retention:.0f} seconds, at most {limits.max_entries} entries"

    click.echo(_run(context, settings, describe))


def _run(context: click.Context, settings: dict[str, Any], act: Callable[[RedisFeed], Awaitable[str]]) -> str:
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


async def _act(settings: Store, act: Callable[[RedisFeed], Awaitable[str]]) -> str:
    store = await open_store(settings, lambda: False, lambda: None, START_SECONDS, None)
    try:
        return await act(RedisFeed(store))
    except ServiceError as error:
        raise ConfigError(f"the store cannot be used: {error}") from error
    finally:
        await store.close()
