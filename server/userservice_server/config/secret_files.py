"""Reads files on which the security of the service depends; rejects files that untrusted users can change."""

import os
import stat
from pathlib import Path

from userservice_server.config.error import ConfigError

_MAX_BYTES = 65536
_MAX_FILE_BYTES = 4 << 20


def read_secret(path: Path, option: str) -> str:
    """Returns the content of a file without the newline at its end.

    Rejects a file that other users can read or write, that its group can write, or whose owner is neither the user of
    the service nor root. ssh has similar rules for key files. Follows symbolic links, because Kubernetes mounts secrets
    as symbolic links.

    Raises:
        ConfigError: The file cannot be read or is not private. The error text never contains the content of the file.
    """
    content = read_file(path, option, is_secret=True, max_bytes=_MAX_BYTES)
    try:
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError(f"{option} {path} must be UTF-8") from None
    if not secret or not secret.isprintable():
        raise ConfigError(f"{option} {path} must contain exactly one line, without control characters")
    return secret


def read_file(path: Path, option: str, *, is_secret: bool, max_bytes: int = _MAX_FILE_BYTES) -> bytes:
    """Returns the content of a file after a check of its owner and mode.

    The owner must be the user of the service or root, and only the owner may have permission to write. A secret may be
    readable only for the owner and the group.

    Raises:
        ConfigError: The file cannot be read, is too large, or its owner or mode is not safe.
    """
    try:
        # Non-blocking, because opening a named pipe would otherwise wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            _check_owner_and_mode(os.fstat(descriptor), f"{option} {path}", is_secret=is_secret)
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be read: {error.strerror}") from None
    if len(content) > max_bytes:
        raise ConfigError(f"{option} {path} is larger than {max_bytes} bytes")
    return content


def _check_owner_and_mode(status: os.stat_result, name: str, *, is_secret: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{name} must be a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{name} must be owned by the user of the service or by root")
    mode = stat.S_IMODE(status.st_mode)
    if is_secret and mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise ConfigError(
            f"{name} contains a secret, but other users can read or write it (mode {mode:04o}); "
            "use chmod 600, or defaultMode 0440 in Kubernetes"
        )
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{name} can be changed by its group or by others (mode {mode:04o}); use chmod go-w")
