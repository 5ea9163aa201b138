"""``userservice users``: reads and writes users."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from userservice.cli import streams
from userservice.cli.connection import connection_options, users_manager
from userservice.cli.exit_codes import NOT_FOUND, PARTIAL, SUCCESS
from userservice.cli.fields import fields_of, filter_option, user_field_options, write_options
from userservice.cli.help import Command, Group, Member
from userservice.cli.output import PRINTERS, Printer, output_option, print_record

if TYPE_CHECKING:
    from userservice import SyncUserManager

_LARGEST_PAGE = 1000
_CHUNK_SIZE = 1000

MEMBERS = {
    "list": Member("userservice.cli.users:list_users", "List users in order of creation."),
    "get": Member("userservice.cli.users:get_users", "Show users by user_id."),
    "find": Member("userservice.cli.users:find_users", "Show users by e-mail address."),
    "count": Member("userservice.cli.users:count_users", "Print the number of users."),
    "add": Member("userservice.cli.users:add_user", "Add a user."),
    "update": Member("userservice.cli.users:update_user", "Change fields of a user."),
    "delete": Member("userservice.cli.users:delete_users", "Delete users and their sessions."),
    "export": Member(
        "userservice.cli.exports:export_users", "Write all users to a file; can be continued after an interruption."
    ),
    "import": Member("userservice.cli.imports:import_users", "Write the users of a file, each exactly once."),
    "watch": Member("userservice.cli.watching:watch_users", "Print the changes of users."),
}

users = Group(
    "users",
    members=MEMBERS,
    help="Read and write users.",
    examples=(
        ("userservice users get user123 -o json", "Show a user as JSON:"),
        ("userservice users export users.jsonl", "Write all users to a file:"),
        ("userservice users import users.jsonl", "Write the users of a file to a service:"),
    ),
)


@click.command(
    "list",
    cls=Command,
    examples=(
        ("userservice users list --limit 20", "Show the 20 oldest users:"),
        ("userservice users list --limit 20 --cursor 153012740094784", "Show the users after an id:"),
        ("userservice users list --all -o csv > users.csv", "Write all users as CSV:"),
        ("userservice users list --filter 'metadata.plan = \"pro\"'", "Show users with a value in their metadata:"),
    ),
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Maximum number of users to list."
)
@click.option("--all", "everything", is_flag=True, help="List all users, each user exactly once.")
@click.option(
    "--cursor",
    type=click.IntRange(min=0),
    default=0,
    metavar="ID",
    help="List users after this id: the next_cursor of an earlier list, or the id of a user.",
)
@filter_option
@output_option
@connection_options
def list_users(*, limit: int, everything: bool, cursor: int, user_filter: str | None, output: str) -> None:
    """List users in order of creation.

    With --all, the list is read as one stream: each user that exists throughout is listed exactly once, also if the
    connection is lost. users export writes a file, shows its progress and can be continued. With --filter, total_size
    is 0; users count --filter counts the users that match.
    """
    printer = PRINTERS[output]("users")
    with users_manager() as manager:
        if everything:
            _print_all(manager, printer, cursor, user_filter)
        else:
            _print_pages(manager, printer, limit, cursor, user_filter)


def _print_all(manager: SyncUserManager, printer: Printer, cursor: int, user_filter: str | None) -> None:
    total_size = 0
    for chunk in manager.list_chunked(chunk_size=_CHUNK_SIZE, cursor=cursor, filter=user_filter):
        printer.records(chunk)
        total_size = chunk.total_size
    printer.end(next_cursor=0, total_size=total_size)


def _print_pages(manager: SyncUserManager, printer: Printer, limit: int, cursor: int, user_filter: str | None) -> None:
    left = limit
    while True:
        page = manager.list(limit=min(left, _LARGEST_PAGE), cursor=cursor, filter=user_filter)
        printer.records(page)
        left, cursor = left - len(page), page.next_cursor
        if left <= 0 or not cursor:
            break
    printer.end(next_cursor=cursor, total_size=page.total_size)
    if cursor:
        streams.flush()
        streams.note_on_terminal(f"more users follow; continue with --cursor {cursor}, or use --all")


@click.command(
    "get",
    cls=Command,
    examples=(
        ("userservice users get user123", "Show a user:"),
        ("userservice users get ada bob -o jsonl", "Show two users as JSON lines:"),
        ("userservice users get --stdin -o csv < user_ids.txt", "Look up the user_ids in a file, one per line:"),
    ),
)
@click.argument("user_ids", metavar="[USER_ID]...", nargs=-1)
@click.option("--stdin", "reads_stdin", is_flag=True, help="Read user_ids from standard input, one per line.")
@output_option
@connection_options
def get_users(*, user_ids: tuple[str, ...], reads_stdin: bool, output: str) -> int:
    """Show users by user_id.

    User_ids without a user are printed on standard error. The exit code is 3 if no user exists, and 1 if some of the
    users do not exist.
    """
    if reads_stdin == bool(user_ids):
        raise click.UsageError("give user_ids as arguments, or use --stdin", click.get_current_context())
    with users_manager() as manager:
        if len(user_ids) == 1:
            print_record(manager.get(user_ids[0]), "users", output)
            return SUCCESS
        return _print_batches(manager, _lines() if reads_stdin else iter(user_ids), PRINTERS[output]("users"))


def _lines() -> Iterator[str]:
    """Yields the lines of standard input that are not empty, without their line break."""
    for line in sys.stdin:
        if user_id := line.rstrip("\r\n"):
            yield user_id


def _print_batches(manager: SyncUserManager, user_ids: Iterator[str], printer: Printer) -> int:
    found, missing = 0, list[str]()
    while batch := list(islice(user_ids, _LARGEST_PAGE)):
        existing = manager.batch_get(batch)
        printer.records(existing)
        found += len(existing)
        missing += existing.missing_user_ids
        for user_id in existing.missing_user_ids:
            streams.print_error(f"the user {user_id!r} does not exist")
    printer.end(missing_user_ids=missing)
    if not missing:
        return SUCCESS
    return PARTIAL if found else NOT_FOUND


@click.command(
    "find",
    cls=Command,
    examples=(
        ("userservice users find ada@example.com", "Show the users with an e-mail address:"),
        ("userservice users find --stdin -o jsonl < emails.txt", "Look up the addresses in a file, one per line:"),
    ),
)
@click.argument("emails", metavar="[EMAIL]...", nargs=-1)
@click.option("--stdin", "reads_stdin", is_flag=True, help="Read addresses from standard input, one per line.")
@output_option
@connection_options
def find_users(*, emails: tuple[str, ...], reads_stdin: bool, output: str) -> int:
    """Show users by e-mail address, without regard to case and Unicode form.

    Several users can have the same address. The exit code is 3 if no user is found. The arguments of a command are
    visible to other users of the machine; --stdin is not.
    """
    if reads_stdin == bool(emails):
        raise click.UsageError("give addresses as arguments, or use --stdin", click.get_current_context())
    printer, found = PRINTERS[output]("users"), 0
    with users_manager() as manager:
        waiting = _lines() if reads_stdin else iter(emails)
        while batch := list(islice(waiting, _LARGEST_PAGE)):
            found += _print_found(manager, batch, printer)
    printer.end()
    if not found:
        streams.flush()
        streams.print_error("no user has one of these e-mail addresses")
    return SUCCESS if found else NOT_FOUND


def _print_found(manager: SyncUserManager, emails: Sequence[str], printer: Printer) -> int:
    found = cursor = 0
    while True:
        page = manager.find(emails, limit=_LARGEST_PAGE, cursor=cursor)
        printer.records(page)
        found, cursor = found + len(page), page.next_cursor
        if not cursor:
            return found


@click.command(
    "count",
    cls=Command,
    examples=(
        ("userservice users count", "Print the number of users:"),
        ("userservice users count --filter 'metadata.plan = \"pro\"'", "Count users by a field:"),
    ),
)
@filter_option
@connection_options
def count_users(*, user_filter: str | None) -> None:
    """Print the number of users.

    With --filter, the service examines all users, at most 100 000 per call; --timeout applies to each call.
    """
    with users_manager() as manager:
        streams.write(f"{manager.count(user_filter)}\n")


@click.command(
    "add",
    cls=Command,
    examples=(
        ('userservice users add ada --email ada@example.com --metadata \'{"plan": "free"}\'', "Add a user:"),
        ("userservice users add --input user.json", "Add a user with the fields in a file:"),
    ),
)
@click.argument("user_id", required=False)
@user_field_options
@write_options
@output_option
@connection_options
def add_user(*, user_id: str | None, source: str | None, output: str, **fields: Any) -> None:
    """Add a user and print it.

    The arguments of a command are visible to other users of the machine. Put fields that others must not see into a
    file and use --input.
    """
    values = fields_of(source, user_id=user_id, **fields)
    with users_manager() as manager:
        print_record(manager.add(values), "users", output)


@click.command(
    "update",
    cls=Command,
    examples=(
        ('userservice users update ada --last-name King --metadata \'{"plan": "pro"}\'', "Change two fields:"),
        ("userservice users update ada --metadata '{\"plan\": null}'", "Remove a key of the metadata:"),
        ("userservice users update ada --metadata '{}' --replace metadata", "Remove the whole metadata:"),
    ),
)
@click.argument("user_id", required=False)
@user_field_options
@write_options
@click.option(
    "--replace",
    "update_mask",
    multiple=True,
    metavar="FIELD",
    help="Replace this field as a whole: email, first_name, last_name, metadata, or * for all of them. "
    "Can be repeated.",
)
@click.option("--etag", metavar="TEXT", help="Expected etag. If the user has another one, nothing is changed.")
@output_option
@connection_options
def update_user(
    *, user_id: str | None, source: str | None, output: str, update_mask: Sequence[str], **fields: Any
) -> None:
    """Change fields of a user and print the user.

    Fields that are not given keep their values. Metadata is merged (JSON Merge Patch, RFC 7396): a key with the value
    null is removed.
    """
    values = fields_of(source, user_id=user_id, update_mask=list(update_mask) or None, **fields)
    with users_manager() as manager:
        print_record(manager.update(values), "users", output)


@click.command(
    "delete",
    cls=Command,
    examples=(
        ("userservice users delete ada bob", "Delete two users:"),
        ("userservice users delete ada --etag q9Qy_mMiCr9e", "Delete a user unless it has changed:"),
    ),
)
@click.argument("user_ids", metavar="USER_ID...", nargs=-1, required=True)
@click.option(
    "--etag",
    metavar="TEXT",
    help="Expected etag; needs exactly one user_id. If the user has another etag, nothing is deleted.",
)
@connection_options
def delete_users(*, user_ids: tuple[str, ...], etag: str | None) -> int:
    """Delete users and all their sessions; print the user_ids that were deleted.

    The exit code is 3 if no user exists, and 1 if some of the users do not exist.
    """
    from userservice import UserNotFoundError  # noqa: PLC0415

    if etag is not None and len(user_ids) > 1:
        raise click.UsageError("--etag needs exactly one user_id", click.get_current_context())
    deleted = 0
    with users_manager() as manager:
        for user_id in user_ids:
            try:
                manager.delete(user_id, etag=etag)
            except UserNotFoundError:
                streams.print_error(f"the user {user_id!r} does not exist")
            else:
                deleted += 1
                streams.write(f"{user_id}\n")
    if deleted == len(user_ids):
        return SUCCESS
    return PARTIAL if deleted else NOT_FOUND
