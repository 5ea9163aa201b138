"""``userservice feed``: turns the feed of changes on and off."""

from typing import Any

import click

from userservice_server.cli.store_access import of_store, run_on_store
from userservice_server.store.feed import DEFAULT_MAX_ENTRIES, DEFAULT_RETENTION, FeedSettings, RedisFeed
from userservice_server.store.redis_store import RedisStore

_LEAST_RETENTION = 60.0
_MOST_RETENTION = 365 * 24 * 3600.0
_LEAST_ENTRIES, _MOST_ENTRIES = 1000, 1_000_000_000


@click.group("feed")
def feed_command() -> None:
    """Turn on or off the feed of changes, which WatchUsers and `userservice users watch` read.

    The feed is off in a new store. It is a property of the store, so the commands apply to all servers that use the
    store, without a restart. While the feed is on, every write adds an entry of about 25 bytes, and servers of an
    earlier version of the service reject the store.
    """


@feed_command.command("on")
@of_store
@click.option(
    "--watch-retention",
    type=click.FloatRange(_LEAST_RETENTION, _MOST_RETENTION),
    default=DEFAULT_RETENTION,
    show_default=True,
    envvar="USERSERVICE_WATCH_RETENTION",
    show_envvar=True,
    help="Seconds after which changes, and the user_ids of deleted users, are removed from the feed.",
)
@click.option(
    "--watch-max-entries",
    type=click.IntRange(_LEAST_ENTRIES, _MOST_ENTRIES),
    default=DEFAULT_MAX_ENTRIES,
    show_default=True,
    envvar="USERSERVICE_WATCH_MAX_ENTRIES",
    show_envvar=True,
    help="Maximum number of changes in the feed.",
)
@click.pass_context
def feed_on(context: click.Context, /, *, watch_retention: float, watch_max_entries: int, **settings: Any) -> None:
    """Turn the feed on, or change its limits. Exit codes: 0 success, 2 the store cannot be used.

    Stop servers of an earlier version of the service first. A limit that is not given is set to its default.
    """
    limits = FeedSettings(watch_max_entries, watch_retention)

    async def turn_on(store: RedisStore) -> str:
        return (
            "the feed is on"
            if await RedisFeed(store).turn_on(limits)
            else "the feed was on already; its limits were set"
        )

    click.echo(run_on_store(context, settings, turn_on))


@feed_command.command("off")
@of_store
@click.pass_context
def feed_off(context: click.Context, /, **settings: Any) -> None:
    """Turn the feed off and remove its entries. All resume tokens expire, also if the feed is turned on again."""

    async def turn_off(store: RedisStore) -> str:
        return "the feed is off" if await RedisFeed(store).turn_off() else "the feed was off already"

    click.echo(run_on_store(context, settings, turn_off))


@feed_command.command("status")
@of_store
@click.pass_context
def feed_status(context: click.Context, /, **settings: Any) -> None:
    """Print whether the feed is on, and its limits."""

    async def describe(store: RedisStore) -> str:
        limits = await RedisFeed(store).settings()
        if limits is None:
            return "the feed is off"
        return f"the feed is on: {limits.retention:.0f} seconds, at most {limits.max_entries} entries"

    click.echo(run_on_store(context, settings, describe))
