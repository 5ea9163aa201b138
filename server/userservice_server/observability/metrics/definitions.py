"""Defines all metrics: names, types, labels, units and meaning. ``make generate`` writes docs/metrics.md from them.

Imports nothing of the service, so that the documentation can be generated without its dependencies.
"""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """The type of a metric, as Prometheus and OpenMetrics name it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """The definition of a metric.

    Attributes:
        name: full name of its samples. The samples of a histogram add ``_bucket``, ``_count`` and ``_sum``.
        kind: its type.
        help: meaning of a value; part of every scrape.
        labels: names of the labels.
        unit: ``seconds`` or ``bytes``, which the name contains; empty for plain numbers.
        buckets: upper bounds of the buckets of a histogram, without +Inf.
        note: further text for the documentation only.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    note: str = ""


# Codes by their number, as go-grpc-middleware spells them.
CODES = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)
OK, CANCELED, UNKNOWN_CODE, UNIMPLEMENTED = 0, 1, 2, 12

_OF_METHOD = ("grpc_type", "grpc_service", "grpc_method")
_OF_WORKER = ("worker",)
_CALL_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STORE_SECONDS = (0.0001, 0.00025, *_CALL_SECONDS[:-2])

STARTED = Metric("grpc_server_started_total", Kind.COUNTER, "Calls that started.", _OF_METHOD)
HANDLED = Metric(
    "grpc_server_handled_total",
    Kind.COUNTER,
    "Calls that ended, by the code that the caller receives.",
    (*_OF_METHOD, "grpc_code"),
    note="A call is counted before its status is sent. Rejected calls are included. Codes: " + ", ".join(CODES) + ".",
)
MESSAGES_RECEIVED = Metric("grpc_server_msg_received_total", Kind.COUNTER, "Messages received.", _OF_METHOD)
MESSAGES_SENT = Metric("grpc_server_msg_sent_total", Kind.COUNTER, "Messages sent.", _OF_METHOD)
HANDLING_SECONDS = Metric(
    "grpc_server_handling_seconds",
    Kind.HISTOGRAM,
    "Time from the start of a call to its end.",
    _OF_METHOD,
    unit="seconds",
    buckets=_CALL_SECONDS,
    note="In the OpenMetrics format, a bucket contains an exemplar: the trace id of its last call whose trace is "
    "sampled, by the caller (header `traceparent`) or by the service itself.",
)
CALLS_IN_PROGRESS = Metric("userservice_calls_in_progress", Kind.GAUGE, "Running calls, streams included.", _OF_WORKER)
REJECTED_CALLS = Metric(
    "userservice_rejected_calls_total",
    Kind.COUNTER,
    "Calls that ended with an error of the service, by its reason.",
    ("reason",),
    note="The reasons are those of the table of errors in README.",
)
STORE_UP = Metric("userservice_store_up", Kind.GAUGE, "1 if the store is available to the worker, else 0.", _OF_WORKER)
STORE_SECONDS = Metric(
    "userservice_store_seconds",
    Kind.HISTOGRAM,
    "Time from a command to the reply of the store.",
    ("script",),
    unit="seconds",
    buckets=_STORE_SECONDS,
    note="`range` is a read of a list or stream, and `joint_range` one of several partitions of one server. "
    "Commands without a reply are not included. The time that a command "
    "waits for its batch is included.",
)
BATCH_SIZE = Metric(
    "userservice_store_batch_size",
    Kind.HISTOGRAM,
    "Commands that were sent to the store in one write.",
    buckets=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0),
)
RECONNECTIONS = Metric(
    "userservice_store_reconnections_total", Kind.COUNTER, "Connections to the store that replaced another connection."
)
UPDATE_RETRIES = Metric(
    "userservice_store_update_retries_total",
    Kind.COUNTER,
    "Updates and deletes that were repeated because another writer had changed the record.",
)
REPLAYS = Metric(
    "userservice_request_id_replays_total",
    Kind.COUNTER,
    "Writes that were answered with the outcome of an earlier request with the same request_id.",
)
USERS = Metric(
    "userservice_users",
    Kind.GAUGE,
    "Users in the store.",
    note="Read every second. Absent if the store did not answer for a minute.",
)
SESSIONS = Metric(
    "userservice_sessions",
    Kind.GAUGE,
    "Sessions in the store.",
    note="Read like userservice_users. Also absent while the sessions of an older store are counted the first time.",
)
STREAMS = Metric(
    "userservice_streams",
    Kind.GAUGE,
    "Running streams of the service's own methods (not health watches and reflection).",
    _OF_WORKER,
)
WATCHES = Metric("userservice_watches", Kind.GAUGE, "Running calls of WatchUsers.", _OF_WORKER)
WATCH_LAG = Metric(
    "userservice_watch_lag_seconds",
    Kind.GAUGE,
    "Time for which the slowest watch has been behind.",
    _OF_WORKER,
    unit="seconds",
    note="A watch is behind while it has changes to send. 0 if no watch is behind. A snapshot does not count.",
)
STREAMED_USERS = Metric("userservice_streamed_users_total", Kind.COUNTER, "Users that streams have sent.")
STALLED_STREAMS = Metric(
    "userservice_stalled_streams_total",
    Kind.COUNTER,
    "Streams that the service closed because their client did not read or send for --stall-timeout.",
)
EVENT_LOOP_LAG = Metric(
    "userservice_event_loop_lag_seconds",
    Kind.GAUGE,
    "Largest delay of the event loop in the last 15 s.",
    _OF_WORKER,
    unit="seconds",
)
LOG_LINES_DROPPED = Metric(
    "userservice_log_lines_dropped_total",
    Kind.COUNTER,
    "Log lines that were dropped because standard error was full or was not read, or because the handler of "
    "--log-handler was too slow or failed.",
)
AUDIT_LINES_DROPPED = Metric(
    "userservice_audit_lines_dropped_total",
    Kind.COUNTER,
    "Lines of the audit log that were dropped because its file could not be written.",
)
SPANS_DROPPED = Metric(
    "userservice_spans_dropped_total",
    Kind.COUNTER,
    "Spans that were dropped because their queue was full or the OTLP endpoint did not accept them.",
)
RELOAD_FAILURES = Metric(
    "userservice_reload_failures_total",
    Kind.COUNTER,
    "Failed reloads of files and of the JWKS URL; the last valid version stays in use.",
    ("file",),
    note="`file` is a value of the log field `file`, or `JWKS URL`. Each worker counts its own failures.",
)
CERTIFICATE_EXPIRY = Metric(
    "userservice_certificate_expiry_timestamp_seconds",
    Kind.GAUGE,
    "Unix time at which the certificate of the service expires.",
    unit="seconds",
    note="Absent without TLS. If the workers use different certificates, the value is the earliest time.",
)
BUILD_INFO = Metric(
    "userservice_build_info",
    Kind.INFO,
    "Versions of the service, Python and grpcio.",
    ("version", "python", "grpcio"),
    note="The value is always 1.",
)
WORKER_RESTARTS = Metric(
    "userservice_worker_restarts_total", Kind.COUNTER, "Worker processes that exited and were started again."
)
CPU_SECONDS = Metric(
    "process_cpu_seconds_total",
    Kind.COUNTER,
    "CPU time of the process.",
    _OF_WORKER,
    unit="seconds",
    note="A worker that was started again continues the time of its predecessor.",
)
RESIDENT_MEMORY = Metric(
    "process_resident_memory_bytes", Kind.GAUGE, "Resident memory of the process.", _OF_WORKER, unit="bytes"
)
OPEN_FDS = Metric("process_open_fds", Kind.GAUGE, "Open file descriptors of the process.", _OF_WORKER)
MAX_FDS = Metric("process_max_fds", Kind.GAUGE, "Maximum number of open file descriptors.", _OF_WORKER)
START_TIME = Metric(
    "process_start_time_seconds", Kind.GAUGE, "Unix time at which the process started.", _OF_WORKER, unit="seconds"
)

METRICS = (
    STARTED,
    HANDLED,
    MESSAGES_RECEIVED,
    MESSAGES_SENT,
    HANDLING_SECONDS,
    CALLS_IN_PROGRESS,
    REJECTED_CALLS,
    STREAMS,
    WATCHES,
    WATCH_LAG,
    STREAMED_USERS,
    STALLED_STREAMS,
    STORE_UP,
    STORE_SECONDS,
    BATCH_SIZE,
    RECONNECTIONS,
    UPDATE_RETRIES,
    REPLAYS,
    USERS,
    SESSIONS,
    EVENT_LOOP_LAG,
    LOG_LINES_DROPPED,
    AUDIT_LINES_DROPPED,
    SPANS_DROPPED,
    RELOAD_FAILURES,
    CERTIFICATE_EXPIRY,
    BUILD_INFO,
    WORKER_RESTARTS,
    CPU_SECONDS,
    RESIDENT_MEMORY,
    OPEN_FDS,
    MAX_FDS,
    START_TIME,
)
