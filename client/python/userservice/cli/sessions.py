"""``userservice sessions``: reads and writes the sessions of a user."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from userservice.cli import streams
from userservice.cli.connection import connection_options, sessions_manager
from userservice.cli.fields import fields_of, write_options
from userservice.cli.help import Command, Group, Member
from userservice.cli.output import PRINTERS, output_option, print_record

_LARGEST_PAGE = 1000

MEMBERS = {
    "list": Member("userservice.cli.sessions:list_sessions", "List the sessions of a user in order of creation."),
    "get": Member("userservice.cli.sessions:get_session", "Show a session."),
    "add": Member("userservice.cli.sessions:add_session", "Add a session to a user."),
    "touch": Member("userservice.cli.sessions:touch_session", "Report that a session is in use, which extends it."),
    "revoke": Member("userservice.cli.sessions:revoke_sessions", "Delete all sessions of a user, or all except one."),
    "delete": Member("userservice.cli.sessions:delete_session", "Delete a session."),
}

sessions = Group(
    "sessions",
    members=MEMBERS,
    help="Read and write the sessions of a user.",
    examples=(("userservice sessions list ada", "Show the sessions of a user:"),),
)


@click.command(
    "list",
    cls=Command,
    examples=(
        ("userservice sessions list ada", "Show the sessions of a user:"),
        ("userservice sessions list ada -o jsonl", "The same as JSON lines:"),
    ),
)
@click.argument("user_id")
@click.option(
    "--include-expired", is_flag=True, help="Also list expired sessions that the service has not removed yet."
)
@output_option
@connection_options
def list_sessions(*, user_id: str, include_expired: bool, output: str) -> None:
    """List all sessions of a user in order of creation."""
    printer = PRINTERS[output]("sessions")
    cursor = 0
    with sessions_manager() as manager:
        while True:
            page = manager.list(user_id, limit=_LARGEST_PAGE, cursor=cursor, include_expired=include_expired)
            printer.records(page)
            cursor = page.next_cursor
            if not cursor:
                break
    printer.end(next_cursor=0, total_size=page.total_size)


@click.command("get", cls=Command, examples=(("userservice sessions get ada laptop -o json", "Show a session:"),))
@click.argument("user_id")
@click.argument("session_id")
@output_option
@connection_options
def get_session(*, user_id: str, session_id: str, output: str) -> None:
    """Show a session of a user."""
    with sessions_manager() as manager:
        print_record(manager.get(user_id, session_id), "sessions", output)


@click.command(
    "add",
    cls=Command,
    examples=(
        ('userservice sessions add ada laptop --metadata \'{"agent": "Firefox"}\'', "Add a session:"),
        (
            "userservice sessions add ada phone --ttl 2592000 --idle-ttl 86400",
            "Add a session that expires after 30 days, or after a day without a touch:",
        ),
    ),
)
@click.argument("user_id", required=False)
@click.argument("session_id", required=False)
@click.option("--ttl", type=float, metavar="SECONDS", help="Seconds after which the session expires.")
@click.option(
    "--expire-time",
    metavar="TIME",
    help="Time at which the session expires, such as 2027-01-31T12:00:00Z; not with --ttl.",
)
@click.option(
    "--idle-ttl", type=float, metavar="SECONDS", help="Seconds without a touch after which the session expires."
)
@write_options
@output_option
@connection_options
def add_session(*, user_id: str | None, session_id: str | None, source: str | None, output: str, **fields: Any) -> None:
    """Add a session to a user and print the session."""
    values = fields_of(source, user_id=user_id, session_id=session_id, **fields)
    if isinstance(values.get("expire_time"), str):
        values["expire_time"] = _time(values["expire_time"])
    with sessions_manager() as manager:
        print_record(manager.add(values), "sessions", output)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        example = "2027-01-31T12:00:00Z"
        raise click.UsageError(f"expire_time: must be a time such as {example}", click.get_current_context()) from None


@click.command(
    "touch", cls=Command, examples=(("userservice sessions touch ada laptop", "Report that a session is in use:"),)
)
@click.argument("user_id")
@click.argument("session_id")
@output_option
@connection_options
def touch_session(*, user_id: str, session_id: str, output: str) -> None:
    """Report that a session is in use, which extends it by its idle_ttl; print the session."""
    with sessions_manager() as manager:
        print_record(manager.touch(user_id, session_id), "sessions", output)


@click.command(
    "revoke",
    cls=Command,
    examples=(
        ("userservice sessions revoke ada", "Delete all sessions of a user:"),
        ("userservice sessions revoke ada --except laptop", "Delete all sessions except one:"),
    ),
)
@click.argument("user_id")
@click.option("--except", "except_session_id", metavar="SESSION_ID", help="Session to keep.")
@connection_options
def revoke_sessions(*, user_id: str, except_session_id: str | None) -> None:
    """Delete all sessions of a user, or all except one, in one step; print the number of deleted sessions."""
    with sessions_manager() as manager:
        streams.write(f"{manager.revoke(user_id, except_session_id=except_session_id)}\n")


@click.command("delete", cls=Command, examples=(("userservice sessions delete ada laptop", "Delete a session:"),))
@click.argument("user_id")
@click.argument("session_id")
@click.option("--etag", metavar="TEXT", help="Expected etag. If the session has another one, nothing is deleted.")
@connection_options
def delete_session(*, user_id: str, session_id: str, etag: str | None) -> None:
    """Delete a session of a user and print its session_id."""
    with sessions_manager() as manager:
        manager.delete(user_id, session_id, etag=etag)
    streams.write(f"{session_id}\n")
