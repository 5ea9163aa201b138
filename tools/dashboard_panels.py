"""The panels of the Grafana dashboard, in rows."""

from dataclasses import dataclass

_FAULTS = "Unknown|DeadlineExceeded|Internal|Unavailable|DataLoss"  # as in the alert rules


@dataclass(frozen=True, slots=True)
class Query:
    """A query in PromQL, with `$S` for the matchers of the selected instances, and the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A panel: a graph, or a single value, of which the name of the series can be shown instead of its number."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str
    is_stat: bool = False
    shows_name: bool = False


def value(title: str, unit: str, expr: str, description: str) -> Shown:
    """Returns a panel with a single value."""
    return Shown(title, unit, (Query(expr, ""),), description, is_stat=True)


def graph(title: str, unit: str, description: str, *queries: tuple[str, str]) -> Shown:
    """Returns a panel with a graph; each query is PromQL and the legend of its series."""
    return Shown(title, unit, tuple(Query(*query) for query in queries), description)


def quantile(share: float, metric: str, by: str, matchers: str = "") -> str:
    """Returns a query for a quantile of a histogram."""
    return f"histogram_quantile({share}, sum by ({by}le) (rate({metric}_bucket{{$S{matchers}}}[$__rate_interval])))"


def rate(metric: str, by: str, matchers: str = "") -> str:
    """Returns a query for the increase of a counter per second."""
    return f"sum by ({by}) (rate({metric}{{$S{matchers}}}[$__rate_interval]))"


def above_zero(expr: str) -> str:
    """Returns a query without the series that are 0: most methods, codes and reasons are, at most times."""
    return f"{expr} > 0"


def total(metric: str) -> str:
    """Returns a query for the increase of a counter per second, as the sum over all series."""
    return f"sum(rate({metric}{{$S}}[$__rate_interval]))"


_UNARY = ', grpc_type="unary"'
ROWS: dict[str, tuple[Shown, ...]] = {
    "Overview": (
        value("Instances", "none", "sum(up{$S})", "Instances that answer scrapes."),
        value(
            "Store",
            "none",
            "min(userservice_store_up{$S})",
            "1: every worker can use the store; 0: at least one cannot.",
        ),
        value("Calls", "reqps", total("grpc_server_handled_total"), "Finished calls per second."),
        value(
            "Failed calls",
            "percentunit",
            f'sum(rate(grpc_server_handled_total{{$S{_UNARY}, grpc_code=~"{_FAULTS}"}}[$__rate_interval]))'
            f" / sum(rate(grpc_server_handled_total{{$S{_UNARY}}}[$__rate_interval]))",
            "Share of the unary calls that failed because of the service.",
        ),
        value("Users", "short", "max(userservice_users{$S})", "Users in the store."),
        value("Sessions", "short", "max(userservice_sessions{$S})", "Sessions in the store."),
        value(
            "Certificate",
            "s",
            "min(userservice_certificate_expiry_timestamp_seconds{$S}) - time()",
            "Time until the certificate of the service expires; no data without TLS.",
        ),
        Shown(
            "Version",
            "none",
            (Query("count by (version) (userservice_build_info{$S})", "{{version}}"),),
            "Versions of the service that run; more than one during a deployment.",
            is_stat=True,
            shows_name=True,
        ),
    ),
    "Calls": (
        graph(
            "Calls by method",
            "reqps",
            "Finished calls per second, of all codes.",
            (above_zero(rate("grpc_server_handled_total", "grpc_method")), "{{grpc_method}}"),
        ),
        graph(
            "Calls by code",
            "reqps",
            "Codes other than OK per second. NotFound and similar codes are answers and not faults of the service.",
            (above_zero(rate("grpc_server_handled_total", "grpc_code", ', grpc_code!="OK"')), "{{grpc_code}}"),
        ),
        graph(
            "Latency of unary calls",
            "s",
            "Time in the service. A call that waits inside grpc for a busy CPU takes longer for its caller.",
            (quantile(0.5, "grpc_server_handling_seconds", "", _UNARY), "50 %"),
            (quantile(0.95, "grpc_server_handling_seconds", "", _UNARY), "95 %"),
            (quantile(0.99, "grpc_server_handling_seconds", "", _UNARY), "99 %"),
        ),
        graph(
            "Latency by method, 99 %",
            "s",
            "99 % of the unary calls take at most this time.",
            (quantile(0.99, "grpc_server_handling_seconds", "grpc_method, ", _UNARY), "{{grpc_method}}"),
        ),
        graph(
            "Calls in progress",
            "short",
            "Running calls of each worker; --max-calls limits them.",
            ("userservice_calls_in_progress{$S}", "{{instance}} worker {{worker}}"),
        ),
        graph(
            "Errors by reason",
            "reqps",
            "Calls that ended with an error of the service, by its reason.",
            (above_zero(rate("userservice_rejected_calls_total", "reason")), "{{reason}}"),
        ),
    ),
    "Streams": (
        graph(
            "Running streams",
            "short",
            "Running streams of each worker; half of --max-calls limits them.",
            ("userservice_streams{$S}", "{{instance}} worker {{worker}}"),
        ),
        graph(
            "Streamed users",
            "short",
            "Users sent per second by ListUsersChunked.",
            (rate("userservice_streamed_users_total", "instance"), "{{instance}}"),
        ),
        graph(
            "Messages",
            "short",
            "Messages per second that were received from callers and sent to them.",
            (total("grpc_server_msg_received_total"), "received"),
            (total("grpc_server_msg_sent_total"), "sent"),
        ),
        graph(
            "Watches",
            "short",
            "Running calls of WatchUsers of each worker.",
            ("userservice_watches{$S}", "{{instance}} worker {{worker}}"),
        ),
        graph(
            "Lag of watches",
            "s",
            "For how long the slowest watch of each worker has been behind.",
            ("userservice_watch_lag_seconds{$S}", "{{instance}} worker {{worker}}"),
        ),
        graph(
            "Stalled streams",
            "short",
            "Streams per second that ended because their client did not read.",
            (rate("userservice_stalled_streams_total", "instance"), "{{instance}}"),
        ),
    ),
    "Store": (
        graph(
            "Store available",
            "none",
            "1: the worker can use the store; 0: it cannot.",
            ("userservice_store_up{$S}", "{{instance}} worker {{worker}}"),
        ),
        graph(
            "Reply time by script, 99 %",
            "s",
            "99 % of the round trips take at most this time.",
            (quantile(0.99, "userservice_store_seconds", "script, "), "{{script}}"),
        ),
        graph(
            "Round trips by script",
            "ops",
            "Round trips to the store per second.",
            (rate("userservice_store_seconds_count", "script"), "{{script}}"),
        ),
        graph(
            "Batch size",
            "short",
            "Commands that are written to the store together: the mean and 95 %.",
            (
                f"{total('userservice_store_batch_size_sum')} / {total('userservice_store_batch_size_count')}",
                "mean",
            ),
            (quantile(0.95, "userservice_store_batch_size", ""), "95 %"),
        ),
        graph(
            "Repeated work",
            "ops",
            "New connections to the store, compare-and-set retries and replayed request_ids, per second.",
            (total("userservice_store_reconnections_total"), "reconnections"),
            (total("userservice_store_update_retries_total"), "compare-and-set retries"),
            (total("userservice_request_id_replays_total"), "replays of request_ids"),
        ),
    ),
    "Processes": (
        graph(
            "CPU",
            "percentunit",
            "Share of a core that each process uses.",
            ("rate(process_cpu_seconds_total{$S}[$__rate_interval])", "{{instance}} {{worker}}"),
        ),
        graph(
            "Memory",
            "bytes",
            "Resident memory of each process, without the embedded store.",
            ("process_resident_memory_bytes{$S}", "{{instance}} {{worker}}"),
        ),
        graph(
            "Event loop lag",
            "s",
            "How late the event loop of each worker was at most.",
            ("userservice_event_loop_lag_seconds{$S}", "{{instance}} worker {{worker}}"),
        ),
        graph(
            "File descriptors",
            "percentunit",
            "Share of the file descriptors of each process that are open.",
            ("process_open_fds{$S} / process_max_fds{$S}", "{{instance}} {{worker}}"),
        ),
        graph(
            "Restarts, lost lines, files",
            "short",
            "Worker restarts, dropped lines of log and audit log, dropped spans, and failed reloads, per minute.",
            (f"60 * {total('userservice_worker_restarts_total')}", "worker restarts"),
            (f"60 * {total('userservice_log_lines_dropped_total')}", "dropped log lines"),
            (f"60 * {total('userservice_audit_lines_dropped_total')}", "dropped audit lines"),
            (f"60 * {total('userservice_spans_dropped_total')}", "dropped spans"),
            (
                "60 * sum by (file) (rate(userservice_reload_failures_total{$S}[$__rate_interval]))",
                "failed reloads: {{file}}",
            ),
        ),
    ),
}
