"""Commands and groups whose help reads like a man page, and groups that import a command when it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import click

EXIT_CODES = (
    ("0", "success"),
    ("1", "partial result, or the service rejected the operation"),
    ("2", "usage: an option, an argument or a field is invalid"),
    ("3", "the user, session or other record does not exist"),
    ("4", "the credentials are missing, invalid, or lack a scope"),
    ("5", "the service is unavailable or too busy"),
    ("130", "interrupted"),
)


class SectionOption(click.Option):
    """An option that the help shows in a section of its own.

    Args:
        section: The title of the section.
    """

    def __init__(self, *arguments: Any, section: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.section = section


class Command(click.Command):
    """A command with examples.

    Args:
        examples: Pairs of a command line and what it does.
    """

    def __init__(self, *arguments: Any, examples: Sequence[tuple[str, str]] = (), **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options by section."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Writes the examples and the exit codes."""
        write_examples(formatter, self.examples)
        with formatter.section("Exit codes"):
            formatter.write_dl(EXIT_CODES)


def write_examples(formatter: click.HelpFormatter, examples: Sequence[tuple[str, str]]) -> None:
    """Writes the section with the examples of a command or group."""
    if not examples:
        return
    with formatter.section("Examples"):
        for number, (line, purpose) in enumerate(examples):
            if number:
                formatter.write_paragraph()
            formatter.write_text(purpose)
            formatter.indent()
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")  # not wrapped, so that it can be copied
            formatter.dedent()


class Member(NamedTuple):
    """A command of a group."""

    place: str
    """Module and name of the command, as `module:name`."""

    summary: str
    """One line for the help of the group."""


class Group(click.Group):
    """A group whose commands are imported when they are used, so that each command starts fast.

    Args:
        members: The commands by name.
        examples: Pairs of a command line and what it does.
    """

    def __init__(
        self,
        *arguments: Any,
        members: Mapping[str, Member],
        examples: Sequence[tuple[str, str]] = (),
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **{"no_args_is_help": False, **settings})
        self.members = members
        self.examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Returns the names of the commands in the order of the help."""
        return list(self.members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Imports a command."""
        if cmd_name not in self.members:
            return None
        module, _, name = self.members[cmd_name].place.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Writes the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, member.summary) for name, member in self.members.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the examples, and how to get more help."""
        write_examples(formatter, self.examples)
        formatter.write_paragraph()
        formatter.write_text(f"{ctx.command_path} COMMAND --help describes a command with its options and examples.")
