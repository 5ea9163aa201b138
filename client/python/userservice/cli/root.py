"""The commands of `userservice` that work with the client alone."""

from __future__ import annotations

from importlib import import_module

import click

from userservice.cli.help import Group, Member

MEMBERS = {
    "users": Member("userservice.cli.users:users", "Read, write, count, find, export, import and watch users."),
    "sessions": Member("userservice.cli.sessions:sessions", "Read and write the sessions of a user."),
    "profile": Member("userservice.cli.profile:profile", "Store addresses and paths of credentials under a name."),
    "completion": Member("userservice.cli.completion:completion", "Print a script that completes commands in a shell."),
    "health": Member("userservice.cli.root:health", "Check the health of a service, as a probe does."),
}

EXAMPLES = (
    ("userservice users get user123", "Show a user of the service on this machine:"),
    ("userservice users export users.jsonl --address https://users.example:50051", "Write all users to a file:"),
)

# Listed in the help only: userservice.__main__ runs this command.
health = click.Command("health", help=MEMBERS["health"].summary)


class Root(Group):
    """Lists the commands of the client; for completion in a shell, also the commands of an installed server."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of the commands."""
        return [*super().list_commands(ctx), *(name for name in self._server() if name not in self.members)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command."""
        return super().get_command(ctx, cmd_name) or self._server().get(cmd_name)

    @staticmethod
    def _server() -> dict[str, click.Command]:
        try:
            commands: dict[str, click.Command] = import_module("userservice_server.cli.command").cli.commands
        except ModuleNotFoundError:
            return {}
        return commands


root = Root(
    "userservice",
    members=MEMBERS,
    examples=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help="Commands for the User service: users and their sessions over gRPC. The extra `server` adds the commands "
    "serve, check, keys and migrate.",
)
root = click.version_option(package_name="userservice")(root)
