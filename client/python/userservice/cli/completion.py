"""``userservice completion``: prints a script that completes commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from userservice.cli import streams
from userservice.cli.help import Command

VARIABLE = "_USERSERVICE_COMPLETE"


@click.command(
    "completion",
    cls=Command,
    examples=(
        ('eval "$(userservice completion bash)"', "In ~/.bashrc:"),
        ('eval "$(userservice completion zsh)"', "In ~/.zshrc:"),
        ("userservice completion fish > ~/.config/fish/completions/userservice.fish", "For fish:"),
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> None:
    """Print a script that completes commands and options in a shell."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click does not support the shell {shell}", click.get_current_context())
    script = kind(click.get_current_context().find_root().command, {}, "userservice", VARIABLE)
    # Not script.source(), which runs bash to find out its version.
    streams.write(f"{script.source_template % script.source_vars()}\n")
