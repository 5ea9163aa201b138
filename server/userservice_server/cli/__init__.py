"""The command line: ``userservice serve`` and ``userservice check``."""

import os

# Disables the messages that grpc prints on standard error. grpc reads this variable when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from userservice_server.cli.command import main

__all__ = ["main"]
