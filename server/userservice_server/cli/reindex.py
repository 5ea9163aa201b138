"""``userservice reindex``: builds the e-mail index of a store."""

from typing import Any

import click

from userservice_server.cli.store_access import of_store, run_on_store
from userservice_server.process.standard_streams import print_error
from userservice_server.store.email_index import EmailIndex
from userservice_server.store.redis_store import RedisStore

_PROGRESS_USERS = 100_000


@click.command("reindex")
@of_store
@click.option("--again", is_flag=True, help="Build a complete index again; FindUsers is not available meanwhile.")
@click.pass_context
def reindex_command(context: click.Context, /, *, again: bool, **settings: Any) -> None:
    """Build the e-mail index that FindUsers needs. Exit codes: 0 the index is complete, 2 it is not complete.

    New stores have the index; use this command for a store of an earlier release. The service can run meanwhile. After
    an interruption, run the command again to continue. Stop servers of an earlier version of the service first: they
    reject a store with an index.

    The index depends on the version of Unicode in Python. If FindUsers returns INDEX_NOT_READY after an upgrade of
    Python on all servers, run the command with the new Python.
    """
    shown = 0

    def progress(done: int) -> None:
        nonlocal shown
        if done - shown >= _PROGRESS_USERS:
            shown = done
            print_error(f"indexed {done} users")

    async def build(store: RedisStore) -> str:
        is_built = await EmailIndex(store).build(progress, again=again)
        return "the e-mail index is complete" if is_built else "the e-mail index was complete already"

    click.echo(run_on_store(context, settings, build))
