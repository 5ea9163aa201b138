"""``userservice users watch``: prints the changes of users and sessions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from userservice.cli import streams
from userservice.cli.connection import connection_options, users_manager
from userservice.cli.exit_codes import CommandError
from userservice.cli.help import Command

if TYPE_CHECKING:
    from userservice import Change, Changes
    from userservice.changes import OnExpired, WatchKind
    from userservice.requests import View

_KIND_WIDTH = len("SESSION_UPDATED")
_MOST_TOKEN_BYTES = 16 << 10


@click.command(
    "watch",
    cls=Command,
    examples=(
        ("userservice users watch", "Print changes from now on:"),
        ("userservice users watch --start snapshot >> users.jsonl", "Write all users, and then their changes:"),
        (
            "userservice users watch --start snapshot --resume-file users.resume >> users.jsonl",
            "The same; after an interruption, the same command continues:",
        ),
        ("userservice users watch --sessions -o table", "Show the changes of users and sessions as a table:"),
    ),
)
@click.option(
    "--start",
    type=click.Choice(("now", "snapshot")),
    default="now",
    show_default=True,
    help="Where to start: with changes from now on, or with a snapshot of all users.",
)
@click.option("--sessions", "with_sessions", is_flag=True, help="Also print changes of sessions.")
@click.option(
    "--view",
    type=click.Choice(("FULL", "BASIC", "ID")),
    default="FULL",
    show_default=True,
    help="Fields of the records: all, all except metadata, or only keys and id.",
)
@click.option(
    "--resume-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Store the resume token in this file after the changes are printed; if the file exists, continue there.",
)
@click.option(
    "--on-expired",
    type=click.Choice(("raise", "snapshot")),
    default="raise",
    show_default=True,
    help="If changes were lost: end with an error, or print a line of the kind RESTARTED and start with a snapshot.",
)
@click.option(
    "--heartbeat",
    type=click.IntRange(1, 600),
    default=15,
    show_default=True,
    metavar="SECONDS",
    help="Seconds without changes after which the service sends an empty message.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(("jsonl", "table")),
    default="jsonl",
    show_default=True,
    help="Format: jsonl: one JSON object per line; table for people.",
)
@connection_options
def watch_users(
    *,
    start: str,
    with_sessions: bool,
    view: str,
    resume_file: Path | None,
    on_expired: str,
    heartbeat: int,
    output: str,
) -> None:
    """Print the changes of users until interrupted. The feed of changes must be on (userservice feed on).

    Every change is printed at least once, the changes of one user in order, also after lost connections. Several
    changes of one user can be printed as one. If a killed command continues with --resume-file, its last lines can be
    printed again.
    """
    kinds: tuple[WatchKind, ...] = ("USERS", "SESSIONS") if with_sessions else ("USERS",)
    with users_manager() as manager:
        watch = manager.watch(
            cast("Literal['now', 'snapshot']", start),
            resume_token=None if resume_file is None else _read_token(resume_file),
            kinds=kinds,
            view=cast("View", view),
            heartbeat=heartbeat,
            on_expired=cast("OnExpired", on_expired),
        )
        for changes in watch:
            _print(changes, output)
            if resume_file is not None:
                _write_token(resume_file, changes.resume_token)


def _print(changes: Changes, output: str) -> None:
    if changes.restarted:
        streams.write('{"kind": "RESTARTED"}\n' if output == "jsonl" else "RESTARTED\n")
    for change in changes:
        streams.write(f"{change.to_json() if output == 'jsonl' else _row(change)}\n")
    streams.flush()


def _row(change: Change) -> str:
    keys = (change.user_id, change.session_id or "", change.user.email if change.user else "")
    shown = "  ".join(key if key.isprintable() else ascii(key) for key in keys if key)
    return f"{change.kind:<{_KIND_WIDTH}}  {shown}"


def _read_token(path: Path) -> str | None:
    try:
        with path.open(encoding="ascii") as file:
            return file.read(_MOST_TOKEN_BYTES).strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it contains no token"
        raise CommandError(f"cannot read --resume-file {path}: {why}") from None


def _write_token(path: Path, token: str) -> None:
    """Replaces the file in one step, so that an interruption leaves the old or the new token."""
    part = path.with_name(f"{path.name}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{token}\n")
        part.replace(path)
    except OSError as error:
        raise CommandError(f"cannot write --resume-file {path}: {error.strerror}") from None
