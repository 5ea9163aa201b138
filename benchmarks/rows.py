"""The names of contestants and figures, and the targets."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.figures import Figure

# Contestants.
SERVICE, QUIET, TWO = "service", "service, no access log", "service, 2 workers"
SERVICE_DEFAULT_ENGINE = "service, grpcio's default engine"
CONSTANT = "constant bytes"  # with the engine of the service
CONSTANT_DEFAULT_ENGINE = "constant bytes, grpcio's default engine"
CONSTANT_TUNED_ENGINE = "constant bytes, tuned engine"
BASELINE, RAW = "baseline", "raw socket"
PLAIN, ENCODED = "plain Go", "encoded Go"
TYPESCRIPT = "TypeScript, user_id only"
SHARED_64, SHARED_256 = "Python, 64 callers, shared", "Python, 256 callers, shared"
WITH_STREAM, WITHOUT_STREAM = "during a stream", "without a stream"
REWRITING = "during the rewrite"
NOT_REWRITING = "without a rewrite"
REWRITTEN = "just after a rewrite"

# Figures.
STREAM_1000, STREAM_100 = "ListUsersChunked, chunk 1000", "ListUsersChunked, chunk 100"
GET, ONE_GET = "GetUser, 4 x 16 at a time", "GetUser, one caller"
ADD, UPDATE = "AddUser with request_id, 4 x 16 at a time", "UpdateUser with request_id, 4 x 16 at a time"
MIXED = "80 % GetUser, 15 % UpdateUser, 5 % AddUser, 4 x 16 at a time"
BATCH, BATCH_TO_GET = "BatchGetUsers of 100, 4 x 16 at a time", "BatchGetUsers of 100 and GetUser"
SHARED = "GetUser of concurrent callers in one client"
HALF_LOAD, SAME_LOAD = "GetUser at half of its own rate", "GetUser at half of the service's rate"
BESIDE_STREAM = "GetUser beside streams of all users"
START = "start to the first answer"
CLIENTS = "clients, list_chunked(1000)"
TYPESCRIPT_MEMORY = "memory growth of the TypeScript client, list_chunked(1000)"
STORE_MEMORY = "Redis memory to encoded payload"
FIRST_CHUNK, PAGE = "time to the first chunk", "one page of ListUsers"
STALL, UNARY_MEMORY = "server's memory growth, stalled reader", "server's memory growth, single calls"
IMPORT = "import"
SCALE_GET, SCALE_ADD, SCALE_PAGE = "GetUser by store size", "AddUser by store size", "page at the end by store size"
SCALE_FIRST, SCALE_STREAM = "first chunk by store size", "stream of 1000 by store size"
LOAD_TIME = "start of store and service to the first answer"
REWRITE = "mixed calls and the rewrite of the append-only file"
WORKERS = "GetUser by workers and cores"
BY_SIZE = (SCALE_GET, SCALE_ADD, SCALE_PAGE, SCALE_FIRST, SCALE_STREAM, LOAD_TIME)


def percentile(figure: str, percent: str) -> str:
    """Returns the name of a percentile of a latency."""
    return f"{figure}, {percent}"


def server_cpu(figure: str) -> str:
    """Returns the name of the server's CPU time that belongs to a rate."""
    return f"{figure}: CPU of the server"


def store_cpu(figure: str) -> str:
    """Returns the name of the store's CPU time that belongs to a rate."""
    return f"{figure}: CPU of the store"


def generator_cpu(figure: str) -> str:
    """Returns the name of the load generator's CPU time that belongs to a rate."""
    return f"{figure}: CPU of the load generator"


def load_rate(figure: str) -> str:
    """Returns the name of the rate at which a latency was measured."""
    return f"{figure}: rate"


def send_delay(figure: str) -> str:
    """Returns the name of the delay with which calls were sent, against their schedule."""
    return f"{figure}: p99 of the delay of sends"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure with a target.

    Attributes:
        figure: name of the figure.
        of: the contestant.
        to: the contestant to compare with; if empty, the target is for the value itself.
        limit: the target.
        is_most: whether the target is a maximum; otherwise it is a minimum.
    """

    figure: str
    of: str
    to: str
    limit: float
    is_most: bool = False

    def is_measured(self, figures: Mapping[str, Figure]) -> bool:
        """Returns whether the figure was measured for the contestants."""
        values = figures[self.figure].values if self.figure in figures else {}
        return self.of in values and (not self.to or self.to in values)

    def value(self, figures: Mapping[str, Figure]) -> float:
        """Returns the measured ratio or value."""
        figure = figures[self.figure]
        return figure.ratio(self.of, self.to) if self.to else figure.median(self.of)

    def is_reached(self, figures: Mapping[str, Figure]) -> bool:
        """Returns whether the target is reached."""
        value = self.value(figures)
        return value <= self.limit if self.is_most else value >= self.limit


ROWS = (
    Row(STREAM_1000, SERVICE, BASELINE, 60),
    Row(STREAM_100, SERVICE, BASELINE, 30),
    Row(STREAM_1000, SERVICE, RAW, 0.30),
    Row(STREAM_1000, SERVICE, ENCODED, 2.5),
    Row(STREAM_100, SERVICE, ENCODED, 2.0),
    Row(GET, CONSTANT_TUNED_ENGINE, CONSTANT_DEFAULT_ENGINE, 1.2),
    Row(GET, SERVICE, CONSTANT_TUNED_ENGINE, 0.85),
    Row(GET, SERVICE, BASELINE, 2.0),
    Row(GET, SERVICE, PLAIN, 0.5),
    Row(ONE_GET, SERVICE, SERVICE_DEFAULT_ENGINE, 1.4),
    Row(ONE_GET, SERVICE, CONSTANT, 0.65),
    Row(ADD, SERVICE, CONSTANT, 0.45),
    Row(BATCH_TO_GET, "BatchGetUsers", "GetUser", 20),
    Row(BATCH, SERVICE, PLAIN, 3),
    Row(SHARED, SHARED_64, PLAIN, 1.3),
    Row(SHARED, SHARED_256, ENCODED, 2),
    Row(percentile(BESIDE_STREAM, "p99"), f"{SERVICE}, {WITH_STREAM}", f"{SERVICE}, {WITHOUT_STREAM}", 3, is_most=True),
    Row(CLIENTS, "Python, user_id only", "Python, each a dict", 10),
    Row(CLIENTS, "Python, all metadata", "Python, each a dict", 2),
    Row(CLIENTS, TYPESCRIPT, "Python, user_id only", 0.5),
    Row(TYPESCRIPT_MEMORY, TYPESCRIPT, "", 64, is_most=True),
    Row(STORE_MEMORY, SERVICE, "", 1.8, is_most=True),
    Row(FIRST_CHUNK, "deep store", "small store", 1.5, is_most=True),
    Row(PAGE, "at the end", "at the start", 1.3, is_most=True),
    Row(STALL, SERVICE, "", 32, is_most=True),
    Row(UNARY_MEMORY, SERVICE, "", 16, is_most=True),
    Row(IMPORT, "userservice", "grpc and protobuf", 1.2, is_most=True),
)
