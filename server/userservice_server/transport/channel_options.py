"""Options of the grpc server, each with its reason.

grpc has defaults that close connections of well-behaved clients, or reject calls outside the log and the table of
errors. docs/operations.md lists the rejections that remain grpc's own.
"""

from userservice_server.config import Config, Listen

MAX_HEADER_BYTES = 16 << 10
"""The largest request headers that a call may have; the interceptor `headers` rejects larger ones."""

_GRPC_HEADER_BYTES = 256 << 10
_MAX_MESSAGE_BYTES = 4 << 20
_MIN_PING_INTERVAL_MS = 4000
_MIN_CONCURRENT_STREAMS = 1000
_MAX_PENDING_CALLS = 100_000
_MAX_PENDING_SECONDS = 3600


def server_options(config: Config) -> list[tuple[str, int]]:
    """Returns the options for `grpc.aio.server`."""
    return [
        # By default grpc shares a port that another server listens on. Only workers of one service may share a port.
        ("grpc.so_reuseport", int(config.process.workers > 1)),
        *_PINGS,
        *_SIZES,
        *_QUEUE,
        # Without a limit, one connection that opens streams, or opens and resets them, as fast as it can takes more
        # than 700 MiB within 4 s; with it, 40 MiB (docs/operations.md). A client holds further calls back by itself.
        # Not below --max-calls, so that one connection can use the whole service.
        ("grpc.max_concurrent_streams", max(_MIN_CONCURRENT_STREAMS, config.limits.max_calls)),
        *_connection_age(config.listen),
    ]


def _connection_age(listen: Listen) -> list[tuple[str, int]]:
    # A client behind a load balancer that balances connections, not calls, uses one replica for as long as its
    # connection lasts. At the age, grpc sends GOAWAY: new calls go to a new connection, running ones stay on the old
    # one until the grace is over.
    if not listen.max_connection_age:
        return []
    return [
        ("grpc.max_connection_age_ms", round(listen.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", round(listen.max_connection_age_grace * 1000)),
    ]


_PINGS = (
    # Clients in Go, Java and Node ping every 10 s or more, and the contract allows a ping every 5 s. grpc's default
    # allows one every 300 s, counts each earlier one as a strike and closes the connection at the third. The interval
    # is less than 5 s, because a ping sent 5.00 s after the last can arrive earlier than that.
    ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
    # Without this option, the interval on a connection without calls is two hours.
    ("grpc.keepalive_permit_without_calls", 1),
)

_SIZES = (
    # Between the two limits grpc rejects headers at random. By default they are 8 and 16 KiB, sizes that tokens have.
    # Equal limits reject nothing at random, and the service itself rejects what is larger than MAX_HEADER_BYTES.
    ("grpc.max_metadata_size", _GRPC_HEADER_BYTES),
    ("grpc.absolute_max_metadata_size", _GRPC_HEADER_BYTES),
    # grpc's default, stated because handlers.py relies on it: the service rejects requests above 1 MiB with an error of
    # its own, and grpc rejects those above this limit before they take up memory.
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
)

_QUEUE = (
    # Calls that grpc has accepted and the event loop has not: grpc rejects calls at random from 1000 on, and those
    # that waited for 30 s. --max-calls is the service's limit, and callers have deadlines.
    ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
    ("grpc.server_max_unrequested_time_in_server", _MAX_PENDING_SECONDS),
)
