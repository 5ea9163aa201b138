"""``userservice profile``: stores addresses and paths of credentials under names."""

from __future__ import annotations

import json
from pathlib import Path

import click

from userservice.cli import streams
from userservice.cli.connection import connection_options, given_options
from userservice.cli.help import Command, Group, Member
from userservice.cli.profiles import (
    NAMES,
    Profile,
    Profiles,
    check_name,
    profiles_file,
    read_profiles,
    write_profiles,
)

MEMBERS = {
    "set": Member("userservice.cli.profile:set_profile", "Create or change a profile."),
    "list": Member("userservice.cli.profile:list_profiles", "List the profiles."),
    "show": Member("userservice.cli.profile:show_profile", "Show the settings of a profile."),
    "use": Member("userservice.cli.profile:use_profile", "Select the default profile."),
    "delete": Member("userservice.cli.profile:delete_profile", "Delete a profile."),
}

profile = Group(
    "profile",
    members=MEMBERS,
    help="Store addresses and paths of credentials under names. An option of a command takes precedence over its "
    "environment variable, and the variable over the profile. The profile is selected by --profile, "
    "USERSERVICE_PROFILE or `profile use`. The file is ~/.config/userservice/profiles.toml, or USERSERVICE_PROFILES; "
    "it contains paths of tokens and keys, but no token and no key.",
    examples=(
        (
            "userservice profile set prod --address https://users.example:50051 --token-file ~/prod.key",
            "Create a profile:",
        ),
        ("userservice users count --profile prod", "Use it:"),
    ),
)


@click.command(
    "set",
    cls=Command,
    examples=(
        (
            "userservice profile set prod --address https://users.example:50051 --token-file ~/prod.key",
            "Create a profile:",
        ),
        ("userservice profile set prod --unset timeout", "Remove a setting:"),
    ),
)
@click.argument("name")
@click.option("--unset", multiple=True, type=click.Choice(NAMES), help="Remove this setting. Can be repeated.")
@connection_options
def set_profile(*, name: str, unset: tuple[str, ...]) -> None:
    """Create a profile or change its settings. Settings that are not given keep their values."""
    settings = given_options(click.get_current_context())
    if settings.pop("profile", None) is not None:
        raise click.UsageError("profile set has no option --profile", click.get_current_context())
    content = read_profiles()
    changed: Profile = content.profiles.setdefault(check_name(name), {})
    for setting, value in settings.items():
        is_path = isinstance(value, str) and setting != "address"
        changed[setting] = str(Path(value).expanduser().absolute()) if is_path else value
    for setting in unset:
        changed.pop(setting, None)
    write_profiles(content)


@click.command("list", cls=Command, examples=(("userservice profile list", "List the profiles:"),))
def list_profiles() -> None:
    """List the profiles with their addresses. The default profile has a star."""
    content = read_profiles()
    for name, settings in sorted(content.profiles.items()):
        mark = "*" if name == content.default else " "
        streams.write(f"{mark} {name}\t{settings.get('address', '')}\n")
    if not content.profiles:
        streams.note_on_terminal(f"there are no profiles in {profiles_file()}; create one with userservice profile set")


@click.command("show", cls=Command, examples=(("userservice profile show prod", "Show the settings of a profile:"),))
@click.argument("name")
def show_profile(*, name: str) -> None:
    """Show the settings of a profile as JSON."""
    streams.write(f"{json.dumps(read_profiles().find(name), ensure_ascii=False, indent=2)}\n")


@click.command(
    "use",
    cls=Command,
    examples=(
        ("userservice profile use prod", "Select the default profile:"),
        ("userservice profile use --none", "Select none:"),
    ),
)
@click.argument("name", required=False)
@click.option("--none", "nothing", is_flag=True, help="Use no profile by default.")
def use_profile(*, name: str | None, nothing: bool) -> None:
    """Select the profile that commands use if neither --profile nor USERSERVICE_PROFILE is given."""
    if (name is None) != nothing:
        raise click.UsageError("give the name of a profile, or --none", click.get_current_context())
    content = read_profiles()
    if name is not None:
        content.find(name)
    write_profiles(Profiles(content.profiles, name))


@click.command("delete", cls=Command, examples=(("userservice profile delete prod", "Delete a profile:"),))
@click.argument("name")
def delete_profile(*, name: str) -> None:
    """Delete a profile. The files that it names are not deleted."""
    content = read_profiles()
    content.find(name)
    del content.profiles[name]
    write_profiles(Profiles(content.profiles, None if content.default == name else content.default))
