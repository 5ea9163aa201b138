"""The command line: ``userservice serve``, ``check`` and ``keys``."""

import os

from userservice_server.process.event_engine import select_event_engine

# grpc reads these variables when it is imported, and the import of `command` imports grpc. The first one disables the
# messages that grpc prints on standard error.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
select_event_engine(os.environ)

from userservice_server.cli.command import main  # noqa: E402 - after grpc's variables are set

__all__ = ["main"]
