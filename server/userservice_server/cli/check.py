"""``userservice check``: checks that a store is consistent."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from userservice_server.check import Report, check
from userservice_server.cli.options import EXIT_FINDINGS, URL_IS_VISIBLE, config_of, setting, shows_password
from userservice_server.config import ConfigError
from userservice_server.embedded.store import APPEND_ONLY_DIRECTORY, EmbeddedStore
from userservice_server.process.standard_streams import print_error

MAX_SHOWN = 1000  # findings


@click.command("check")
@setting("redis-url", str, "URL of the store, as for serve. Without a URL, the store in --data-dir.")
@setting("redis-url-file", click.Path(path_type=Path), "File that contains the URL, as for serve.")
@setting("data-dir", click.Path(path_type=Path), "Data directory of an embedded store that is not running.")
@setting("key-prefix", str, "Prefix of all keys in Redis.")
@setting("store-timeout", click.FloatRange(0.1, 60), "Timeout in seconds for connecting to Redis, and for each reply.")
@click.option("--keys/--no-keys", "show_keys", help="Show the key of each finding; keys can contain user_ids.")
@click.pass_context
def check_command(context: click.Context, /, *, show_keys: bool, **settings: Any) -> None:
    """Check that a store is consistent, without changing it. Exit codes: 0 consistent, 1 findings, 2 cannot be checked.

    With --data-dir, the command starts a store there for the check, which leaves the data unchanged.

    The store may be in use during the check. The URL of the embedded store of a running service is
    unix:///PATH/OF/DATA_DIR/store.sock, with an absolute path. A URL takes precedence over --data-dir.
    """
    config = config_of(context, settings)
    with ExitStack() as resources:
        url, ended = config.store.redis_url, None
        if url is None:
            if not (config.store.data_dir / APPEND_ONLY_DIRECTORY).is_dir():
                raise ConfigError(f"there is no store in --data-dir {config.store.data_dir}")
            store = resources.enter_context(EmbeddedStore(config.store.data_dir, config.store.fsync, as_it_is=True))
            url, ended = store.url, store.ended
        report = check(url, config.store.key_prefix, config.store.timeout, ended)
    _print(report, show_keys=show_keys)
    if shows_password(context, config):
        print_error(f"userservice: warning: {URL_IS_VISIBLE}")
    if report.findings:
        sys.exit(EXIT_FINDINGS)


def _print(report: Report, *, show_keys: bool) -> None:
    for finding in report.findings[:MAX_SHOWN]:
        key = f" [{finding.key.decode(errors='backslashreplace')}]" if show_keys else ""
        click.echo(finding.what + key)
    if (more := len(report.findings) - MAX_SHOWN) > 0:
        click.echo(f"and {more} more")
    counts = f"{report.users} users, {report.sessions} sessions, {report.requests} idempotency records"
    click.echo(f"checked {counts}: {len(report.findings)} findings")
