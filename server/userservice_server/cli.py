"""The command line: ``userservice serve`` and ``userservice check``."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

# grpc prints lines of its own on standard error, between the log lines. It reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from userservice_server.app import ServiceEndedError, run_server
from userservice_server.check import Report, check
from userservice_server.config import Config, ConfigError, has_password
from userservice_server.logs import FLUSH_SECONDS, logging_to_stderr
from userservice_server.process.standard_streams import OutputError, open_standard_streams, print_error, print_line
from userservice_server.process.stopping import BEYOND_GRACE_SECONDS, STOP_SIGNALS, Stop
from userservice_server.secret_files import read_secret
from userservice_server.store.embedded import APPEND_ONLY_DIRECTORY, EmbeddedStore, StartInterruptedError
from userservice_server.workers import run_workers

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_ENDED, EXIT_CANNOT_START, EXIT_INTERRUPTED = 1, 2, 130
EXIT_FINDINGS = 1
MAX_SHOWN = 1000  # findings
_DEFAULTS = Config()
_URL_IS_VISIBLE = (
    "the password in --redis-url is visible to other users in the list of processes; "
    "use --redis-url-file or USERSERVICE_REDIS_URL"
)

logger = logging.getLogger("userservice")


def main() -> None:
    """Runs the command line and exits.

    Exit codes: 0 success, 1 exited unexpectedly or findings, 2 cannot start or print, 130 interrupted.
    """
    open_standard_streams()
    os.umask(0o077)  # for the files of the embedded store, too
    if sys.argv[1:2] != ["serve"]:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # see userservice.__main__
    # Not sys.exit: at its end the interpreter waits for threads, and flushes to descriptors that nobody reads.
    os._exit(_exit_code())


def _exit_code() -> int:
    """Runs the command line; prints one line if it fails."""
    try:
        cli.main(standalone_mode=False)
    except (click.ClickException, ConfigError, OutputError) as error:
        if not (isinstance(error, OutputError) and error.is_closed_pipe):  # nothing to report: the reader has left
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
    print_error(f"userservice: error: {message}")


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="userservice")
def cli() -> None:
    """The User service: users and their sessions over gRPC, stored in Redis or Valkey."""


def _setting(name: str, kind: object, description: str) -> Callable[[Command], Command]:
    """An option for a field of Config, with its environment variable and default."""
    field = name.replace("-", "_")
    return click.option(
        f"--{name}",
        type=kind,
        envvar=f"USERSERVICE_{field.upper()}",
        default=getattr(_DEFAULTS, field),
        show_default=True,
        show_envvar=True,
        help=description,
    )


@cli.command()
@_setting("listen", str, "HOST:PORT to listen on; port 0 selects a free port.")
@_setting(
    "redis-url",
    str,
    "URL of Redis or Valkey: redis://, rediss:// or unix://. Without a URL, the service starts an embedded store.",
)
@_setting(
    "redis-url-file",
    click.Path(path_type=Path),
    "File that contains the URL; use it for a URL with a password, which the command line would show to other users.",
)
@_setting("data-dir", click.Path(path_type=Path), "Data directory of the embedded store.")
@_setting(
    "fsync",
    click.Choice(["always", "everysec"]),
    "When the embedded store flushes writes to disk: always (before it acknowledges them) or everysec.",
)
@_setting("key-prefix", str, "Prefix of all keys in Redis.")
@_setting("workers", click.IntRange(1, 256), "Number of serving processes; all of them listen on the same port.")
@_setting("store-timeout", click.FloatRange(0.1, 60), "Timeout in seconds for connecting to Redis, and for each reply.")
@_setting("call-timeout", click.FloatRange(0.1, 3600), "Maximum duration of a unary call in seconds.")
@_setting(
    "stall-timeout",
    click.FloatRange(0.1, 86400),
    "Seconds until a stream is closed that its client does not read.",
)
@_setting(
    "max-calls",
    click.IntRange(1, 1_000_000),
    "Maximum number of concurrent calls per process, at most half of them streams.",
)
@_setting(
    "max-connection-age",
    click.FloatRange(0, 604_800),
    "Seconds after which a connection is replaced, 10 % more or less; 0: never.",
)
@_setting(
    "max-connection-age-grace",
    click.FloatRange(1, 604_800),
    "Seconds that calls on a replaced connection may still take.",
)
@_setting("grace", click.FloatRange(0, 3600), "Seconds that running calls get to finish when the service is stopped.")
@_setting(
    "log-level",
    click.Choice(["debug", "info", "warning", "error"]),
    "Log level: debug, info, warning or error (JSON lines on standard error).",
)
@_setting("access-log", bool, "true: log every call; false: log only failed calls.")
@click.pass_context
def serve(context: click.Context, /, **settings: Any) -> None:
    """Serve until SIGTERM or SIGINT.

    After the signal, running calls get --grace seconds to finish, and the process exits at most 1 s later (an embedded
    store gets 30 s more to stop). A second signal, at least 1 s after the first one, ends the running calls at once.
    """
    config = _config(context, settings)
    if config.redis_url is not None and context.get_parameter_source("fsync") is not ParameterSource.DEFAULT:
        raise ConfigError("--fsync applies to the embedded store only; set appendfsync in the Redis of --redis-url")
    stop = Stop(config.grace + BEYOND_GRACE_SECONDS)
    stop.start()
    with logging_to_stderr(config.log_level, lambda: min(FLUSH_SECONDS, stop.remaining() / 2)):
        try:
            if config.redis_url is not None:
                _run(config, config.redis_url, _announce(config, context), lambda: None, stop)
            else:
                _run_with_embedded_store(config, context, stop)
        except Exception as error:
            stop.request(EXIT_ENDED if isinstance(error, ServiceEndedError) else EXIT_CANNOT_START)
            raise


def _announce(config: Config, context: click.Context) -> Callable[[int], None]:
    """Returns a function that prints where the service listens."""

    def announce(port: int) -> None:
        if not print_line(f"userservice listening on {config.host}:{port}"):
            logger.warning("standard output is not read: the line with the address waits for its reader")
        if _shows_password(context, config):
            logger.warning(_URL_IS_VISIBLE)

    return announce


def _run(config: Config, url: str, ready: Callable[[int], None], ended: Callable[[], str | None], stop: Stop) -> None:
    (run_server if config.workers == 1 else run_workers)(config, url, ready, ended, stop)


def _run_with_embedded_store(config: Config, context: click.Context, stop: Stop) -> None:
    is_ready = False
    store = EmbeddedStore(config.data_dir, config.fsync, is_stopping=lambda: stop.requested)
    stop.before_forced_exit(store.stop)

    def ready(port: int) -> None:
        nonlocal is_ready
        is_ready = True
        logger.info("embedded store started", extra={"socket": str(store.socket)})
        if store.has_cut_its_log():
            logger.warning("cut an unfinished command off the append-only file, as after a power cut")
        _announce(config, context)(port)

    try:
        with store:
            _run(config, store.url, ready, store.ended, stop)
    except StartInterruptedError:
        return
    except ServiceEndedError as error:
        if is_ready:
            raise
        raise ConfigError(str(error)) from error


@cli.command("check")
@_setting("redis-url", str, "URL of the store: redis://, rediss:// or unix://. Without a URL, the store in --data-dir.")
@_setting("redis-url-file", click.Path(path_type=Path), "File that contains the URL, as for serve.")
@_setting("data-dir", click.Path(path_type=Path), "Data directory of an embedded store that is not running.")
@_setting("key-prefix", str, "Prefix of all keys in Redis.")
@_setting("store-timeout", click.FloatRange(0.1, 60), "Timeout in seconds for connecting to Redis, and for each reply.")
@click.option("--keys/--no-keys", "show_keys", help="Show the key of each finding; keys can contain user_ids.")
@click.pass_context
def check_command(context: click.Context, /, *, show_keys: bool, **settings: Any) -> None:
    """Check that a store is consistent, without changing it. Exit codes: 0 consistent, 1 findings, 2 cannot be checked.

    With --data-dir, the command starts a store there for the check, which leaves the data unchanged.

    The store may be in use during the check. The URL of the embedded store of a running service is
    unix:///PATH/OF/DATA_DIR/store.sock, with an absolute path. A URL takes precedence over --data-dir.
    """
    config = _config(context, settings)
    with ExitStack() as resources:
        url, ended = config.redis_url, None
        if url is None:
            if not (config.data_dir / APPEND_ONLY_DIRECTORY).is_dir():
                raise ConfigError(f"there is no store in --data-dir {config.data_dir}")
            store = resources.enter_context(EmbeddedStore(config.data_dir, config.fsync, as_it_is=True))
            url, ended = store.url, store.ended
        report = check(url, config.key_prefix, config.store_timeout, ended)
    _tell(report, show_keys=show_keys)
    if _shows_password(context, config):
        print_error(f"userservice: warning: {_URL_IS_VISIBLE}")
    if report.findings:
        sys.exit(EXIT_FINDINGS)


def _config(context: click.Context, settings: dict[str, Any]) -> Config:
    """Returns the settings, with the URL from its file; a flag takes precedence over the other one's variable."""
    config = Config(**settings)
    if config.redis_url_file is None:
        return config
    if config.redis_url is not None:
        is_flag = {
            name: context.get_parameter_source(name) is ParameterSource.COMMANDLINE
            for name in ("redis_url", "redis_url_file")
        }
        if is_flag["redis_url"] == is_flag["redis_url_file"]:
            raise ConfigError("--redis-url and --redis-url-file exclude each other")
        if is_flag["redis_url"]:
            return config
    return replace(config, redis_url=read_secret(config.redis_url_file, "--redis-url-file"))


def _shows_password(context: click.Context, config: Config) -> bool:
    """Whether the list of processes shows a password."""
    is_flag = context.get_parameter_source("redis_url") is ParameterSource.COMMANDLINE
    return is_flag and config.redis_url is not None and has_password(config.redis_url)


def _tell(report: Report, *, show_keys: bool) -> None:
    for finding in report.findings[:MAX_SHOWN]:
        key = f" [{finding.key.decode(errors='backslashreplace')}]" if show_keys else ""
        click.echo(finding.what + key)
    if (more := len(report.findings) - MAX_SHOWN) > 0:
        click.echo(f"and {more} more")
    looked_at = f"{report.users} users, {report.sessions} sessions, {report.requests} request records"
    click.echo(f"checked {looked_at}: {len(report.findings)} findings")
