"""The command line: ``userservice serve`` and ``userservice check``."""

import os

# grpc prints lines of its own on standard error, between the log lines. It reads this variable when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from userservice_server.cli.command import main

__all__ = ["main"]
