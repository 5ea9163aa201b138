"""The command line: ``userservice serve`` and ``userservice check``."""

import logging
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from userservice_server.app import ServiceEndedError, run_server
from userservice_server.check import Report, check
from userservice_server.config import Config, ConfigError
from userservice_server.logs import logging_to_stderr
from userservice_server.store.embedded import EmbeddedStore
from userservice_server.workers import run_workers

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_ENDED, EXIT_CANNOT_START, EXIT_INTERRUPTED = 1, 2, 130
EXIT_FINDINGS = 1
MAX_SHOWN = 1000  # findings
_DEFAULTS = Config()

logger = logging.getLogger("userservice")


def main() -> None:
    """Runs the command line. Exit codes: 0 done as asked, 1 ended by itself or findings, 2 cannot start as told."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        _fail(error.format_message(), EXIT_CANNOT_START)
    except ConfigError as error:
        _fail(str(error), EXIT_CANNOT_START)
    except ServiceEndedError as error:
        _fail(str(error), EXIT_ENDED)
    except click.Abort:
        sys.exit(EXIT_INTERRUPTED)


def _fail(message: str, code: int) -> None:
    click.echo(f"userservice: error: {message}", err=True)
    sys.exit(code)


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="userservice")
def cli() -> None:
    """The User service: users and their sessions, over gRPC, kept in Redis or Valkey."""


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
@_setting("listen", str, "HOST:PORT to listen on; port 0 takes a free one.")
@_setting(
    "redis-url", str, "Redis or Valkey to use: redis://, rediss:// or unix://. Without it, an embedded one is run."
)
@_setting("data-dir", click.Path(path_type=Path), "Where the embedded store keeps its data.")
@_setting(
    "fsync", click.Choice(["always", "everysec"]), "When the embedded store forces writes to disk: always or everysec."
)
@_setting("key-prefix", str, "What all keys in Redis begin with.")
@_setting("workers", click.IntRange(1, 256), "Processes that serve, all on the one port.")
@_setting("store-timeout", click.FloatRange(0.1, 60), "Seconds that Redis may take to connect, and to answer.")
@_setting("call-timeout", click.FloatRange(0.1, 3600), "Seconds that a call may take; streams may take longer.")
@_setting("stall-timeout", click.FloatRange(0.1, 86400), "Seconds that a stream waits for its reader, then ends.")
@_setting(
    "max-calls",
    click.IntRange(1, 1_000_000),
    "Concurrent calls of each process, at most half of them streams; more are rejected.",
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
    "Of the log, JSON lines on standard error: debug, info, warning or error.",
)
@_setting("access-log", bool, "true: log every call; false: only those that fail.")
@click.pass_context
def serve(context: click.Context, /, **settings: Any) -> None:
    """Serve until SIGTERM or SIGINT."""
    config = Config(**settings)
    if config.redis_url is not None and context.get_parameter_source("fsync") is not ParameterSource.DEFAULT:
        raise ConfigError("--fsync is for the embedded store; set appendfsync in the Redis of --redis-url")
    run = run_server if config.workers == 1 else run_workers
    is_ready = False

    def ready(port: int) -> None:
        nonlocal is_ready
        is_ready = True
        click.echo(f"userservice listening on {config.host}:{port}")

    with logging_to_stderr(config.log_level):
        if config.redis_url is not None:
            run(config, config.redis_url, ready, lambda: None)
            return
        # Until app.serve has its own: so that a store that is being started is stopped in order, too.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit())
        with EmbeddedStore(config.data_dir, config.fsync) as store:

            def ready_with_store(port: int) -> None:
                logger.info("the embedded store runs", extra={"socket": str(store.socket)})
                if store.has_cut_its_log():
                    logger.warning("an unfinished command was cut off the append-only file, as after a power cut")
                ready(port)

            try:
                run(config, store.url, ready_with_store, store.ended)
            except ServiceEndedError as error:
                if is_ready:
                    raise
                raise ConfigError(str(error)) from error


@cli.command("check")
@_setting("redis-url", str, "Store to check: redis://, rediss:// or unix://. Without it, the one in --data-dir.")
@_setting("data-dir", click.Path(path_type=Path), "Where an embedded store that does not run keeps its data.")
@_setting("key-prefix", str, "What all keys in Redis begin with.")
@_setting("store-timeout", click.FloatRange(0.1, 60), "Seconds that Redis may take to connect, and to answer.")
@click.option("--keys/--no-keys", "show_keys", help="Show the key of each finding: it can hold a user_id.")
def check_command(*, show_keys: bool, **settings: Any) -> None:
    """Verify that a store is consistent, reading only. Exit codes: 0 it is, 1 findings, 2 it cannot be checked.

    With --data-dir a store is started there for it, which leaves the data as they are.

    The store may be in use meanwhile. That of a running service without --redis-url is
    unix:///PATH/OF/DATA_DIR/store.sock, with an absolute path. --redis-url, or its variable, goes before --data-dir.
    """
    config = Config(**settings)
    with ExitStack() as resources:
        url, ended = config.redis_url, None
        if url is None:
            if not (config.data_dir / "appendonlydir").is_dir():
                raise ConfigError(f"there is no store in --data-dir {config.data_dir}")
            store = resources.enter_context(EmbeddedStore(config.data_dir, config.fsync, as_it_is=True))
            url, ended = store.url, store.ended
        report = check(url, config.key_prefix, config.store_timeout, ended)
    _tell(report, show_keys=show_keys)
    if report.findings:
        sys.exit(EXIT_FINDINGS)


def _tell(report: Report, *, show_keys: bool) -> None:
    for finding in report.findings[:MAX_SHOWN]:
        key = f" [{finding.key.decode(errors='backslashreplace')}]" if show_keys else ""
        click.echo(finding.what + key)
    if (more := len(report.findings) - MAX_SHOWN) > 0:
        click.echo(f"and {more} more")
    looked_at = f"{report.users} users, {report.sessions} sessions, {report.requests} request records"
    click.echo(f"checked {looked_at}: {len(report.findings)} findings")
