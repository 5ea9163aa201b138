"""The profile file: addresses and paths of credentials under names. The file contains no secret."""

from __future__ import annotations

import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from userservice.cli.exit_codes import USAGE, CommandError

TEXTS = ("address", "token_file", "tls_ca", "tls_cert", "tls_key")
"""The settings of a profile that are texts; all of them except the address are paths."""

NUMBERS = ("timeout",)
FLAGS = ("allow_insecure_token",)
NAMES = (*TEXTS, *NUMBERS, *FLAGS)

Profile = dict[str, Any]

_HEADER = "# Written by `userservice profile`. Contains paths of credentials, no credentials.\n"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass
class Profiles:
    """The content of the profile file.

    Attributes:
        profiles: The settings of each profile by name.
        default: The profile that is used if none is selected; None if there is none.
    """

    profiles: dict[str, Profile] = field(default_factory=dict)
    default: str | None = None

    def find(self, name: str) -> Profile:
        """Returns a profile.

        Raises:
            CommandError: If there is no profile with this name.
        """
        if name not in self.profiles:
            known = f"the profiles are: {', '.join(sorted(self.profiles))}" if self.profiles else "there are none"
            raise CommandError(f"there is no profile {name!r} in {profiles_file()}; {known}", USAGE)
        return self.profiles[name]


def profiles_file() -> Path:
    """Returns the path of the profile file."""
    if path := os.environ.get("USERSERVICE_PROFILES"):
        return Path(path)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "userservice" / "profiles.toml"


def check_name(name: str) -> str:
    """Returns the name of a profile if it is valid.

    Raises:
        CommandError: If the name is invalid.
    """
    if _NAME.fullmatch(name) is None:
        raise CommandError("the name of a profile has 1 to 64 letters, digits, '_' and '-'", USAGE)
    return name


def read_profiles() -> Profiles:
    """Reads the profile file; a missing file has no profiles.

    Raises:
        CommandError: If the file cannot be read or is invalid, or if other users can change it.
    """
    path = profiles_file()
    try:
        with path.open("rb") as file:
            _check_mode(os.fstat(file.fileno()), path)
            content = tomllib.load(file)
    except FileNotFoundError:
        return Profiles()
    except OSError as error:
        raise CommandError(f"cannot read the profile file {path}: {error.strerror}", USAGE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"the profile file {path} is not valid TOML: {error}", USAGE) from None
    return _parse(content, path)


def _check_mode(status: os.stat_result, path: Path) -> None:
    # Whoever can change the file decides to which address the credentials are sent.
    if stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise CommandError(f"other users can change the profile file {path}; use chmod go-w", USAGE)


def _parse(content: Mapping[str, Any], path: Path) -> Profiles:
    profiles, default = content.get("profiles", {}), content.get("default")
    if content.keys() - {"profiles", "default"} or not isinstance(profiles, dict):
        raise CommandError(f"the profile file {path} may only contain `default` and tables [profiles.NAME]", USAGE)
    for name, profile in profiles.items():
        _check(name, profile, path)
    if default is not None and default not in profiles:
        raise CommandError(f"the default profile {default!r} is not in the profile file {path}", USAGE)
    return Profiles(profiles, default)


def _check(name: str, profile: object, path: Path) -> None:
    place = f"profile {name!r} in {path}"
    if not isinstance(profile, dict):
        raise CommandError(f"{place} must be a table", USAGE)
    for setting, value in profile.items():
        if setting not in NAMES:
            raise CommandError(f"{place} has an unknown setting; the settings are {', '.join(NAMES)}", USAGE)
        kind: tuple[type, ...] = (str,) if setting in TEXTS else (int, float) if setting in NUMBERS else (bool,)
        if not isinstance(value, kind) or (setting in NUMBERS and isinstance(value, bool)):
            raise CommandError(f"{place}: {setting} must be of type {kind[-1].__name__}", USAGE)


def write_profiles(content: Profiles) -> None:
    """Replaces the profile file in one step.

    Raises:
        CommandError: If the file cannot be written.
    """
    path = profiles_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # private: mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(_to_toml(content))
            Path(temporary).replace(path.resolve())  # keeps a symbolic link
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise CommandError(f"cannot write the profile file {path}: {error.strerror}") from None


def _to_toml(content: Profiles) -> str:
    lines = [_HEADER]
    if content.default is not None:
        lines.append(f"default = {_toml_text(content.default)}\n")
    for name, profile in sorted(content.profiles.items()):
        lines.append(f"\n[profiles.{name}]\n")
        lines += [f"{setting} = {_toml_value(profile[setting])}\n" for setting in NAMES if setting in profile]
    return "".join(lines)


def _toml_value(value: str | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _toml_text(value) if isinstance(value, str) else repr(value)


def _toml_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub("[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'
