"""``userservice serve``: runs the service with the store at a URL, or with an embedded store."""

import faulthandler
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from userservice_server.cli.options import (
    EXIT_CANNOT_START,
    EXIT_ENDED,
    URL_IS_VISIBLE,
    config_of,
    setting,
    shows_password,
)
from userservice_server.config import Config, ConfigError
from userservice_server.embedded.store import EmbeddedStore, StartInterruptedError
from userservice_server.observability.log_handler import load_handler
from userservice_server.observability.log_writer import FLUSH_SECONDS, logging_to_stderr
from userservice_server.process.listen import check_exposure, is_loopback
from userservice_server.process.metrics import Metrics, serve_metrics
from userservice_server.process.serving import Reports, ServiceEndedError, run_server
from userservice_server.process.standard_streams import STDERR, print_line
from userservice_server.process.stopping import BEYOND_GRACE_SECONDS, Stop
from userservice_server.process.systemd import Systemd
from userservice_server.process.tracing import check_tracing
from userservice_server.process.workers import run_workers

logger = logging.getLogger("userservice")


@click.command()
@setting("listen", str, "HOST:PORT or unix:PATH to listen on; port 0 selects a free port.")
@setting(
    "socket-mode",
    click.Choice(["600", "660", "666"]),
    "Permissions of the Unix socket of --listen: 600 for its owner only, 660 for the group too, 666 for all users.",
)
@setting(
    "tls-cert",
    click.Path(path_type=Path),
    "File with the certificate of the service and its chain (PEM). Without it, connections are not encrypted.",
)
@setting("tls-key", click.Path(path_type=Path), "File with the private key of the certificate (PEM).")
@setting("tls-client-ca", click.Path(path_type=Path), "File with the authorities that sign client certificates (PEM).")
@setting(
    "tls-client-auth",
    click.Choice(["none", "require"]),
    "require: every connection needs a client certificate, also those of health probes.",
)
@setting(
    "auth",
    str,
    "Accepted kinds of credentials: keys, jwt, mtls, separated by commas, or none. "
    "Required unless the service listens on a loopback address.",
)
@setting(
    "keys-file",
    click.Path(path_type=Path),
    "File with keys and certificates of callers (TOML); userservice keys new adds a key.",
)
@setting("jwt-issuer", str, "Issuer of accepted tokens (iss).")
@setting("jwt-audience", str, "Audience of accepted tokens (aud).")
@setting("jwt-jwks", str, "File or https URL with the public keys of the token issuer (JWKS).")
@setting("jwt-scope-claim", str, "Claim with the scopes of a token: a string with spaces, or a list.")
@setting(
    "redis-url",
    str,
    "URL of Redis or Valkey: redis://, rediss://, unix://, redis-sentinel:// or redis-cluster://. "
    "Without a URL, the service starts an embedded store.",
)
@setting(
    "redis-url-file",
    click.Path(path_type=Path),
    "File that contains the URL; use it for a URL with a password, which the command line would show to other users.",
)
@setting("data-dir", click.Path(path_type=Path), "Data directory of the embedded store.")
@setting(
    "fsync",
    click.Choice(["always", "everysec"]),
    "When the embedded store flushes writes to disk: always (before it acknowledges them) or everysec.",
)
@setting("key-prefix", str, "Prefix of all keys in Redis.")
@setting(
    "partitions",
    int,
    "Number of partitions of a new store: 1, 16 or 64; by default 16 in a cluster, else 1. "
    "The number of an existing store cannot change.",
)
@setting(
    "wait-replicas",
    click.IntRange(0, 16),
    "Number of replicas that must confirm a write before the service acknowledges it; see docs/topologies.md.",
)
@setting("workers", click.IntRange(1, 256), "Number of serving processes; all of them listen on the same port.")
@setting("store-timeout", click.FloatRange(0.1, 60), "Timeout in seconds for connecting to Redis, and for each reply.")
@setting("call-timeout", click.FloatRange(0.1, 3600), "Maximum duration of a unary call in seconds.")
@setting(
    "stall-timeout",
    click.FloatRange(0.1, 86400),
    "Seconds after which a stream is closed if its client reads nothing.",
)
@setting(
    "max-calls",
    click.IntRange(1, 1_000_000),
    "Maximum number of concurrent calls per process, at most half of them streams.",
)
@setting(
    "max-connection-age",
    click.FloatRange(0, 604_800),
    "Seconds after which the server closes a connection, 10 % more or less; 0: never.",
)
@setting(
    "max-connection-age-grace",
    click.FloatRange(1, 604_800),
    "Seconds that running calls get to finish on a connection that reached its maximum age.",
)
@setting(
    "read-only",
    bool,
    "true: reject all writes (STORE_UNAVAILABLE), for example during a migration or a restore.",
)
@setting("grace", click.FloatRange(0, 3600), "Seconds that running calls get to finish when the service is stopped.")
@setting(
    "log-level",
    click.Choice(["debug", "info", "warning", "error"]),
    "Log level: debug, info, warning or error (JSON lines on standard error).",
)
@setting("access-log", bool, "true: log every call; false: log only failed calls.")
@setting(
    "log-handler",
    str,
    "MODULE:FUNCTION; the function returns a logging.Handler that also receives all log lines (Sentry, OpenTelemetry).",
)
@setting(
    "audit-log",
    click.Path(path_type=Path),
    "File of the audit log: one JSON line for each change of a user or session, with time, caller, method and call id.",
)
@setting(
    "metrics-listen",
    str,
    "HOST:PORT on which to serve metrics at /metrics (Prometheus, OpenMetrics); port 0 selects a free port.",
)
@click.pass_context
def serve(context: click.Context, /, **settings: Any) -> None:
    """Serve until SIGTERM or SIGINT.

    After the signal, running calls get --grace seconds to finish, and the process exits at most 1 s later (an embedded
    store gets 30 s more to stop). A second signal, at least 1 s after the first one, ends the running calls at once.
    """
    config = config_of(context, settings)
    if config.store.redis_url is not None and context.get_parameter_source("fsync") is not ParameterSource.DEFAULT:
        raise ConfigError("--fsync applies only to the embedded store; with --redis-url, set appendfsync in Redis")
    check_exposure(config)
    if config.concerns_callers:
        from userservice_server.process.callers import check_files  # noqa: PLC0415 - its libraries take long to import

        check_files(config)
    check_tracing()
    # A watchdog ends the service by SIGABRT if an event loop is blocked. The traceback, without values, shows where.
    faulthandler.enable(STDERR)
    systemd = Systemd.take_from(os.environ)
    stop = Stop(config.process.grace + BEYOND_GRACE_SECONDS)
    stop.at_request(systemd.stopping)
    stop.start()
    handler = load_handler(config.observability.log_handler)  # after the start, so that its threads block signals
    flush_seconds = lambda: min(FLUSH_SECONDS, stop.remaining() / 2)  # noqa: E731
    with logging_to_stderr(config.observability.log_level, flush_seconds, handler=handler):
        try:
            metrics = serve_metrics(config)
            if config.store.redis_url is not None:
                _run(config, _announce(config, context, systemd), lambda: None, stop, systemd, metrics)
            else:
                _run_with_embedded_store(config, context, stop, systemd, metrics)
        except Exception as error:
            stop.request(EXIT_ENDED if isinstance(error, ServiceEndedError) else EXIT_CANNOT_START)
            raise


def _announce(config: Config, context: click.Context, systemd: Systemd) -> Callable[[int], None]:
    """Returns a function that prints where the service listens, and reports to systemd that it serves."""

    def announce(port: int) -> None:
        address = config.listen.reached_at(port)
        if not print_line(f"userservice listening on {address}"):
            logger.warning("standard output is full and is not read; the line with the address is not printed yet")
        if shows_password(context, config):
            logger.warning(URL_IS_VISIBLE)
        if config.auth.kinds and config.tls.cert is None and not is_loopback(config.listen):
            logger.warning("credentials are sent unencrypted: use --tls-cert, or a proxy on this machine with TLS")
        systemd.ready(f"serving on {address}")

    return announce


def _run(
    config: Config,
    ready: Callable[[int], None],
    ended: Callable[[], str | None],
    stop: Stop,
    systemd: Systemd,
    metrics: Metrics | None,
) -> None:
    if config.process.workers > 1:
        run_workers(config, ready, ended, stop, systemd, metrics)
        return
    reports = Reports(loading=systemd.loading, beat=systemd.ping, metrics=metrics.worker(0) if metrics else None)
    run_server(config, ready, ended, stop, reports)


def _run_with_embedded_store(
    config: Config, context: click.Context, stop: Stop, systemd: Systemd, metrics: Metrics | None
) -> None:
    is_ready = False
    store = EmbeddedStore(config.store.data_dir, config.store.fsync, is_stopping=lambda: stop.requested)
    stop.before_forced_exit(store.stop)

    def ready(port: int) -> None:
        nonlocal is_ready
        is_ready = True
        logger.info("embedded store started", extra={"socket": str(store.socket)})
        if store.has_cut_its_log():
            logger.warning("removed an unfinished command from the end of the append-only file (power cut?)")
        _announce(config, context, systemd)(port)

    try:
        with store:
            _run(config.with_store_at(store.url), ready, store.ended, stop, systemd, metrics)
    except StartInterruptedError:
        return
    except ServiceEndedError as error:
        if is_ready:
            raise
        raise ConfigError(str(error)) from error
