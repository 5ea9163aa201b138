"""Options of the grpc server, each with its reason.

The defaults of grpc would close connections of well-behaved clients, and reject calls without a log line and without
the details of our errors. docs/operations.md lists the calls that grpc itself still rejects.
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
        # Without this limit, one connection that opens streams, or opens and resets them, as fast as possible makes the
        # server use more than 700 MiB within 4 s; with the limit, 40 MiB (docs/operations.md). Clients queue further
        # calls themselves. The limit is at least --max-calls, so that one connection can use the whole service.
        ("grpc.max_concurrent_streams", max(_MIN_CONCURRENT_STREAMS, config.limits.max_calls)),
        *_connection_age(config.listen),
    ]


def _connection_age(listen: Listen) -> list[tuple[str, int]]:
    # Behind a load balancer that balances connections, not calls, a client uses one replica as long as its connection
    # lasts. At the maximum age, grpc sends GOAWAY: new calls use a new connection, and running calls stay on the old
    # connection until the grace period is over.
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
    # Between these two limits, grpc rejects headers at random. The defaults are 8 and 16 KiB, and tokens can have such
    # sizes. With equal limits nothing is rejected at random, and the service itself rejects headers above
    # MAX_HEADER_BYTES.
    ("grpc.max_metadata_size", _GRPC_HEADER_BYTES),
    ("grpc.absolute_max_metadata_size", _GRPC_HEADER_BYTES),
    # The default of grpc, stated here because the service relies on it: grpc rejects larger requests before they take
    # up memory, and request_sizes.py has the smaller limits of each RPC.
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
)

_QUEUE = (
    # Limits of the queue of calls that wait for the event loop. By default, grpc rejects calls at random if 1000 calls
    # are waiting, and every call that has waited for 30 s. The service has its own limit (--max-calls), and callers
    # have deadlines.
    ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
    ("grpc.server_max_unrequested_time_in_server", _MAX_PENDING_SECONDS),
)
