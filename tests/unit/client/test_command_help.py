"""Every command of the client has a description and examples, and docs/cli.md lists all of them."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from userservice import _connection
from userservice.cli import connection, streams
from userservice.cli.help import Command, Group
from userservice.cli.root import root
from userservice_server.cli import command as server_command
from userservice_server.cli.command import cli as server

ROOT = Path(__file__).resolve().parents[3]


def commands(group: Group, path: str = "userservice") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.members:
        command = group.get_command(context, name)
        assert command, f"{path} {name}"
        if isinstance(command, Group):
            yield from commands(command, f"{path} {name}")
        elif isinstance(command, Command):
            yield f"{path} {name}", command


ALL = dict(commands(root))


@pytest.mark.parametrize("path", ALL)
def test_the_help_has_sections_and_its_examples_are_valid(path: str) -> None:
    command = ALL[path]
    assert isinstance(command, Command)
    text = command.get_help(click.Context(command, info_name=path))
    assert text.startswith(f"Usage: {path}")
    assert re.search(r"^Exit codes:$", text, re.MULTILINE)
    assert command.examples
    for line, _ in command.examples:
        assert f"    {line}\n" in text
        found = re.search(r"userservice [^|<>)]+", line)
        assert found
        words = shlex.split(found[0])
        assert " ".join(words[: len(path.split())]) == path
        command.make_parser(click.Context(command)).parse_args(words[len(path.split()) :])
    for option in command.params:
        assert not isinstance(option, click.Option) or option.help, option.name


def test_summaries_of_groups_agree_with_the_commands_and_with_the_server() -> None:
    for name, member in root.members.items():
        shown = server.commands[name]
        assert (shown.help or "") == member.summary
    for group in ("users", "sessions", "profile"):
        found = root.get_command(click.Context(root), group)
        assert isinstance(found, Group)
        for name, member in found.members.items():
            command = found.get_command(click.Context(found), name)
            assert command
            assert command.name == name
            assert member.summary.endswith(".")


def test_texts_that_client_and_server_cannot_share_are_equal() -> None:
    """The help must not import grpc, and the server must not import the SDK."""
    assert connection.DEFAULT_ADDRESS == _connection.DEFAULT_ADDRESS
    assert connection.DEFAULT_TIMEOUT == _connection.DEFAULT_TIMEOUT
    assert streams._SECRET == server_command._SECRET


def test_the_document_matches_the_commands() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "generate_cli_reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_help_loads_neither_grpc_nor_the_server() -> None:
    code = """
import sys
from userservice.cli.main import run
assert run(["users", "list", "--help"]) == run(["profile", "list"]) == 0
print(*(name for name in ("grpc", "google", "userservice.models", "userservice_server", "tqdm") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
