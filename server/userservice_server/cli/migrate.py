"""``userservice migrate``: moves a store to other servers, or to another number of partitions."""

from pathlib import Path

import click

from userservice_server.config import ConfigError, StoreUrl, Topology
from userservice_server.config.secret_files import read_secret
from userservice_server.migration import Endpoint, migrate
from userservice_server.process.standard_streams import print_error

_PROGRESS_USERS = 100_000
_TIMEOUT = "Timeout in seconds for connecting to a store, and for each reply."


@click.command("migrate")
@click.option("--from", "from_url", envvar="USERSERVICE_FROM", show_envvar=True, help="URL of the store to move.")
@click.option("--from-file", type=click.Path(path_type=Path), help="File that contains the URL of the store to move.")
@click.option("--to", "to_url", envvar="USERSERVICE_TO", show_envvar=True, help="URL of an empty store.")
@click.option("--to-file", type=click.Path(path_type=Path), help="File that contains the URL of the empty store.")
@click.option("--from-prefix", default="userservice", show_default=True, help="Key prefix of the store to move.")
@click.option("--to-prefix", default="userservice", show_default=True, help="Key prefix of the new store.")
@click.option(
    "--partitions",
    type=click.Choice(["1", "16", "64"]),
    help="Number of partitions of the new store; by default 16 in a cluster, else 1.",
)
@click.option("--store-timeout", type=click.FloatRange(0.1, 60), default=3.0, show_default=True, help=_TIMEOUT)
def migrate_command(
    *,
    from_url: str | None,
    from_file: Path | None,
    to_url: str | None,
    to_file: Path | None,
    from_prefix: str,
    to_prefix: str,
    partitions: str | None,
    store_timeout: float,
) -> None:
    """Move a store to other servers, or to another number of partitions. Exit codes: 0 moved, 2 not moved.

    The command first marks the store at --from. From then on, servers reject writes to this store with STORE_CHANGED,
    even if the command is interrupted. Run the same command again to continue. Ids, uuids, etags, times, sessions and
    idempotency records are copied unchanged, and the store at --to is checked at the end. Then start the servers with
    the new URL.

    Put URLs with passwords into files or environment variables, because the list of processes shows arguments.
    """
    source = _url(from_url, from_file, "--from")
    target = _url(to_url, to_file, "--to")
    if (source, from_prefix) == (target, to_prefix):
        raise ConfigError("--from and --to are the same store")
    default = 16 if StoreUrl.parse(target).topology is Topology.CLUSTER else 1
    shown = 0

    def progress(copied: int, users: int) -> None:
        nonlocal shown
        if copied - shown >= _PROGRESS_USERS:
            shown = copied
            print_error(f"copied {copied} of {users} users")

    of_source, of_target = Endpoint(source, from_prefix), Endpoint(target, to_prefix)
    report = migrate(of_source, of_target, int(partitions or default), store_timeout, progress)
    counts = f"{report.users} users, {report.sessions} sessions"
    click.echo(f"moved {counts}; the check of the new store found nothing")


def _url(url: str | None, file: Path | None, flag: str) -> str:
    if (url is None) == (file is None):
        raise ConfigError(f"use either {flag} or {flag}-file")
    found = url if file is None else read_secret(file, f"{flag}-file")
    if found is None:
        raise AssertionError("one of the two is given")
    StoreUrl.parse(found)
    return found
