"""``userservice sessions``: reads and writes the sessions of a user."""

from __future__ import annotations

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
@output_option
@connection_options
def list_sessions(*, user_id: str, output: str) -> None:
    """List all sessions of a user in order of creation."""
    printer = PRINTERS[output]("sessions")
    cursor = 0
    with sessions_manager() as manager:
        while True:
            page = manager.list(user_id, limit=_LARGEST_PAGE, cursor=cursor)
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
    examples=(('userservice sessions add ada laptop --metadata \'{"agent": "Firefox"}\'', "Add a session:"),),
)
@click.argument("user_id", required=False)
@click.argument("session_id", required=False)
@write_options
@output_option
@connection_options
def add_session(*, user_id: str | None, session_id: str | None, source: str | None, output: str, **fields: Any) -> None:
    """Add a session to a user and print the session."""
    values = fields_of(source, user_id=user_id, session_id=session_id, **fields)
    with sessions_manager() as manager:
        print_record(manager.add(values), "sessions", output)


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
