"""Connects to a store and runs all checks."""

import time
from collections.abc import Callable

from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError

from userservice_server.check.connecting import connect
from userservice_server.check.emails import check_emails, check_states
from userservice_server.check.feeds import check_feeds
from userservice_server.check.layout import check_store_ids, partitions_of
from userservice_server.check.reading import Reader
from userservice_server.check.report import Report
from userservice_server.check.scan import Scan
from userservice_server.check.session_counts import SessionCounts
from userservice_server.check.tables import Tables
from userservice_server.config import ConfigError
from userservice_server.store.failures import why
from userservice_server.store.keys import Keys

_END_LOOKS, _END_PAUSE = 10, 0.05


def check(url: str, key_prefix: str, timeout: float, ended: Callable[[], str | None] | None = None) -> Report:
    """Checks the store at ``url`` under ``key_prefix``.

    Args:
        url: address of the store.
        key_prefix: start of the store's keys.
        timeout: limit in seconds for connecting and for each reply.
        ended: returns why the store exited, or None while it runs; only for a store that this program runs.

    Raises:
        ConfigError: the store cannot be reached, there is no store under this prefix, or its layout is unknown.
    """
    try:
        with connect(url, timeout) as servers:
            for client in servers.clients:
                _wait_for_loading(client)
            return _run(Reader(servers), key_prefix)
    except RedisError as error:
        raise ConfigError(
            (ended and _reason(ended)) or f"the store at --redis-url cannot be read: {why(error)}"
        ) from error


def _reason(ended: Callable[[], str | None]) -> str | None:
    """Returns the reason from ``ended``; polls for it, because a store closes its connections before it exits."""
    for _ in range(_END_LOOKS):
        if reason := ended():
            return reason
        time.sleep(_END_PAUSE)
    return None


def _wait_for_loading(client: Redis) -> None:
    """Waits for a store that has just been started and is loading its data."""
    while True:
        try:
            client.ping()
        except BusyLoadingError:
            time.sleep(0.1)
        else:
            return


def _run(reader: Reader, key_prefix: str) -> Report:
    report = Report()
    keys = Keys(key_prefix, partitions_of(reader, report, key_prefix))
    has_id = check_store_ids(reader, report, keys)
    tables = Tables(reader, report, has_id=has_id)
    if has_id:
        check_feeds(reader, report, keys)
        check_states(reader, report, keys)
    counts = SessionCounts(reader, keys)
    tables.check_users(keys)
    check_emails(reader, report, keys)
    Scan(reader, report, keys, tables).run(key_prefix)
    counts.check(report)
    return report
