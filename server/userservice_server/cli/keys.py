"""``userservice keys``: creates, lists, revokes and checks keys in a keys file."""

import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from userservice_server.cli.keys_file_editing import add_entry, changing, revoke_entry
from userservice_server.cli.options import EXIT_FINDINGS
from userservice_server.config import ConfigError
from userservice_server.errors import CredentialsInvalidError
from userservice_server.transport.credentials.key_format import new_key
from userservice_server.transport.credentials.keys import Keys
from userservice_server.transport.credentials.keys_file import NEVER, KeysFile, parse_keys_file, read_keys_file

_DURATION = re.compile(r"([1-9][0-9]{0,4})([hd])", re.ASCII)
_MAX_KEY_CHARACTERS = 1000

_file_option = click.option(
    "--keys-file",
    "path",
    type=click.Path(path_type=Path),
    envvar="USERSERVICE_KEYS_FILE",
    show_envvar=True,
    required=True,
    help="The keys file (TOML).",
)


@click.group("keys")
def keys_command() -> None:
    """Create, list, revoke and check the keys of callers. Running services reload a changed file within a second."""


@keys_command.command()
@_file_option
@click.option("--name", required=True, help="Description of the key, such as the name of its program.")
@click.option("--scopes", required=True, help="Scopes, separated by commas, such as users.read,users.list; *: all.")
@click.option(
    "--expires", default=None, help="Expiry: 90d, 12h, or a time such as 2027-01-01T00:00:00Z. Default: never."
)
@click.option("--not-before", default=None, help="Start of validity: a duration from now or a time, as above.")
@click.option("--calls-per-second", type=float, default=None, help="Maximum calls per second, in each serving process.")
@click.option("--max-streams", type=int, default=None, help="Maximum concurrent streams, in each serving process.")
def new(
    path: Path,
    name: str,
    scopes: str,
    expires: str | None,
    not_before: str | None,
    calls_per_second: float | None,
    max_streams: int | None,
) -> None:
    """Create a key, add its SHA-256 to the keys file and print the key. The key cannot be shown again."""
    key = new_key()
    fields: dict[str, object] = {
        "name": name,
        "sha256": key.digest.hex(),
        "scopes": [scope.strip() for scope in scopes.split(",")],
        "not_before": _time(not_before, "--not-before"),
        "expires_at": _time(expires, "--expires"),
        "calls_per_second": calls_per_second,
        "max_streams": max_streams,
    }
    with changing(path, may_be_new=True) as file:
        file.text = add_entry(file.text, key.id, {name: value for name, value in fields.items() if value is not None})
    click.echo(key.text)


@keys_command.command("list")
@_file_option
def list_keys(path: Path) -> None:
    """List the keys and certificates of the keys file."""
    content = _read(path)
    now = time.time()
    for kind, entries in (("key", content.keys), ("certificate", content.certificates)):
        for entry in entries.values():
            state = entry.fault(now) or "valid"
            expires = _shown_time(entry.expires_at)
            click.echo(f"{kind}\t{entry.id}\t{state}\t{expires}\t{','.join(sorted(entry.scopes))}\t{entry.name}")


@keys_command.command()
@_file_option
@click.argument("key_id")
def revoke(path: Path, key_id: str) -> None:
    """Revoke the key with an id. The entry stays in the file, because old log lines contain the id."""
    with changing(path) as file:
        file.text = revoke_entry(file.text, key_id, datetime.now(UTC).replace(microsecond=0))
    click.echo(f"revoked {key_id}")


@keys_command.command()
@_file_option
@click.option("--stdin", "reads_key", is_flag=True, help="Also check the key in the first line of standard input.")
def check(path: Path, *, reads_key: bool) -> None:
    """Check the keys file and, with --stdin, a key.

    Exit codes: 0 valid, 1 the key is not valid, 2 the keys file is not valid.
    """
    content = _read(path)
    if not reads_key:
        click.echo(f"valid: {len(content.keys)} keys, {len(content.certificates)} certificates")
        return
    try:
        caller = Keys(content).verify(sys.stdin.readline(_MAX_KEY_CHARACTERS).strip())
    except CredentialsInvalidError as error:
        click.echo(f"not valid: {error.cause}")
        sys.exit(EXIT_FINDINGS)
    entry = content.keys[caller.name]
    click.echo(f"valid: key {entry.id}, expires {_shown_time(entry.expires_at)}, {','.join(sorted(entry.scopes))}")


def _read(path: Path) -> KeysFile:
    return parse_keys_file(read_keys_file(path), path)


def _shown_time(seconds: float) -> str:
    return "never" if seconds == NEVER else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    if found := _DURATION.fullmatch(text):
        hours = int(found[1]) * (24 if found[2] == "d" else 1)
        return datetime.now(UTC).replace(microsecond=0) + timedelta(hours=hours)
    try:
        value = datetime.fromisoformat(text)
        if value.tzinfo is not None:
            return value.astimezone(UTC)
    except (ValueError, OverflowError):  # the time zone can move the time out of the supported years
        pass
    raise ConfigError(f"{option} must be a duration such as 90d or 12h, or a time such as 2027-01-01T00:00:00Z")
