"""Reads a secret from a file that only trusted users can read or change."""

import os
import stat
from pathlib import Path

from userservice_server.config.error import ConfigError

_MAX_BYTES = 65536


def read_secret(path: Path, option: str) -> str:
    """Returns the content of a file without the newline at its end.

    Rejects a file that other users can read or write, that its group can write, or that neither the user of the service
    nor root owns; ssh applies such a rule to its key files. Follows symbolic links, because Kubernetes mounts secrets
    as links.

    Raises:
        ConfigError: The file cannot be read or is not private. The error text never contains the content of the file.
    """
    try:
        # Non-blocking, because opening a named pipe would otherwise wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            _check_owner_and_mode(os.fstat(descriptor), f"{option} {path}")
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{option} {path} is larger than {_MAX_BYTES} bytes")
    try:
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError(f"{option} {path} must be UTF-8") from None
    if not secret or not secret.isprintable():
        raise ConfigError(f"{option} {path} must contain exactly one line, without control characters")
    return secret


def _check_owner_and_mode(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{name} must be a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{name} must be owned by the user of the service or by root")
    if status.st_mode & (stat.S_IWGRP | stat.S_IRWXO):
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(
            f"{name} contains a secret, but other users can read or write it (mode {mode:04o}); "
            "use chmod 600, or defaultMode 0440 in Kubernetes"
        )
