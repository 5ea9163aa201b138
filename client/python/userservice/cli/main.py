"""Runs a command of the client and exits with its exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from userservice.cli import streams
from userservice.cli.completion import VARIABLE
from userservice.cli.exit_codes import INTERRUPTED, PARTIAL, SUCCESS, USAGE, CommandError, exit_code_of
from userservice.cli.root import root

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> NoReturn:
    """Runs the command line and exits."""
    streams.open_standard_streams()
    streams.use_utf8(sys.stdout)
    # grpc reads this variable when it is imported. The value disables the messages that grpc prints on standard error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    signal.signal(signal.SIGTERM, _interrupt)  # a job that is stopped ends as after Ctrl-C
    code = run(sys.argv[1:])
    # Not sys.exit, because the interpreter would then wait for threads, and flush output that nobody reads.
    os._exit(code)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(arguments: Sequence[str]) -> int:
    """Runs a command and returns its exit code; prints one line if it fails."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # see userservice.__main__
        code = _run(arguments)
        streams.flush()
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except streams.OutputError as error:
        if not error.is_closed_pipe:  # a closed pipe is no error: its reader needs no more output
            streams.print_error(str(error))
        return PARTIAL
    return code


def _invoke(arguments: list[str]) -> Any:
    if VARIABLE in os.environ:
        return root.main(arguments, prog_name="userservice", standalone_mode=False)
    # Not root.main, which prints an empty line after Ctrl-C, also to a pipe.
    try:
        with root.make_context("userservice", arguments) as context:
            return root.invoke(context)
    except click.exceptions.Exit as ending:  # after --help
        return ending.exit_code


def _run(arguments: Sequence[str]) -> int:
    try:
        result = _invoke(list(arguments))
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "userservice"
        streams.print_error(f"{error.format_message().rstrip('.')}; see {path} --help")
        return USAGE
    except click.ClickException as error:
        streams.print_error(error.format_message())
        return USAGE
    except CommandError as error:
        streams.print_error(str(error))
        return error.exit_code
    except SystemExit as ending:  # after a completion
        return ending.code if isinstance(ending.code, int) else SUCCESS
    except OSError as error:  # commands handle the errors of their files, so that only standard output is left
        raise streams.OutputError(error) from None
    except Exception as error:
        from userservice.errors import UserServiceError  # noqa: PLC0415 - imports grpc, which takes long

        if not isinstance(error, UserServiceError):
            raise
        streams.print_error(str(error))
        return exit_code_of(error)
    return result if isinstance(result, int) else SUCCESS
