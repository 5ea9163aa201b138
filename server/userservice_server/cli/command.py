"""Runs the command ``userservice`` and exits with its exit code."""

import os
import re
import resource
import signal
import sys

import click

from userservice_server.cli.check import check_command
from userservice_server.cli.feed import feed_command
from userservice_server.cli.keys import keys_command
from userservice_server.cli.migrate import migrate_command
from userservice_server.cli.options import EXIT_CANNOT_START, EXIT_ENDED, EXIT_INTERRUPTED
from userservice_server.cli.reindex import reindex_command
from userservice_server.cli.serve import serve
from userservice_server.config import ConfigError
from userservice_server.process.serving import ServiceEndedError
from userservice_server.process.standard_streams import OutputError, open_standard_streams, print_error
from userservice_server.process.stopping import STOP_SIGNALS

_SECRET = re.compile(r"usk_\w+|eyJ[\w-]+\.[\w.-]+|(?<=:/)/?\S*(?=@)|(?<=password=)[^\s&'\"]+")


def main() -> None:
    """Runs the command line and exits.

    Exit codes: 0 success, 1 exited unexpectedly or findings, 2 cannot start or print, 130 interrupted.
    """
    open_standard_streams()
    # A core dump contains users, keys and passwords. The embedded store inherits the limit.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)  # also applies to the files of the embedded store
    if sys.argv[1:2] != ["serve"]:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # see userservice.__main__
    # Not sys.exit, because the interpreter would then wait for threads and for output that nobody reads.
    os._exit(_exit_code())


def _exit_code() -> int:
    """Runs the command line; prints one line if it fails."""
    try:
        cli.main(standalone_mode=False)
    except (click.ClickException, ConfigError, OutputError) as error:
        if not (isinstance(error, OutputError) and error.is_closed_pipe):  # a closed pipe is not an error
            _print_failure(error.format_message() if isinstance(error, click.ClickException) else str(error))
        return EXIT_CANNOT_START
    except ServiceEndedError as error:
        _print_failure(str(error))
        return EXIT_ENDED
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 0
    return 0


def _print_failure(message: str) -> None:
    # The messages of click contain wrong arguments, such as a key or URL that belongs to another option.
    print_error(f"userservice: error: {_SECRET.sub('***', message)}")


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="userservice")
def cli() -> None:
    """The User service: users and their sessions over gRPC, stored in Redis or Valkey."""


cli.add_command(serve)
cli.add_command(check_command)
cli.add_command(feed_command)
cli.add_command(keys_command)
cli.add_command(migrate_command)
cli.add_command(reindex_command)
# Listed in --help only: userservice.__main__ runs these commands of the client without importing the server.
for name, summary in (
    ("completion", "Print a script that completes commands in a shell."),
    ("health", "Check the health of a service, as a probe does."),
    ("profile", "Store addresses and paths of credentials under a name."),
    ("sessions", "Read and write the sessions of a user."),
    ("users", "Read, write, count, find, export, import and watch users."),
):
    cli.add_command(click.Command(name, help=summary))
