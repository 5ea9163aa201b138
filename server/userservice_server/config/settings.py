"""The settings of ``userservice serve`` in sections; the table in README.md describes each setting.

A field has the name of its flag, unless its metadata names another flag.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from userservice_server.config.callers import Auth, Tls
from userservice_server.config.error import ConfigError
from userservice_server.config.redis_url import check_redis_url

_LISTEN = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]]+):(?P<port>[0-9]{1,5})")
_UNIX = "unix:"
_PRIVATE_MODE = "600"
_MAX_SOCKET_PATH = 107  # bytes, on Linux
_UNFIT_IN_SOCKET_PATH = re.compile(r"[,%?#]")  # grpc parses an address as a URL, and clients split it at commas
_KEY_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_MAX_PORT = 65535
_PARTITION_COUNTS = (1, 16, 64)  # the same as in store/partitions.py; a test compares both
_FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the service listens, and how long connections last.

    Attributes:
        address: HOST:PORT, or unix:PATH for a Unix socket; port 0 selects a free port.
        socket_mode: permissions of the Unix socket, in octal digits.
        max_connection_age: seconds after which the server closes a connection, and clients reconnect; 0 means never.
        max_connection_age_grace: seconds that running calls on such a connection get to finish.
    """

    address: str = field(default="127.0.0.1:50051", metadata={_FLAG: "listen"})
    socket_mode: str = _PRIVATE_MODE
    max_connection_age: float = 0.0
    max_connection_age_grace: float = 600.0

    def __post_init__(self) -> None:
        """Checks the address."""
        if self.socket is not None:
            _check_socket(self.address.removeprefix(_UNIX))
            return
        _check_address(self.address, "--listen")
        if self.socket_mode != _PRIVATE_MODE:
            raise ConfigError("--socket-mode requires --listen unix:PATH")

    @property
    def socket(self) -> Path | None:
        """The path of the Unix socket; None if the service listens on a port."""
        is_socket = self.address.startswith(_UNIX)
        return Path(self.address.removeprefix(_UNIX).removeprefix("//")) if is_socket else None

    @property
    def host(self) -> str:
        """The host of the address, with brackets if it is an IPv6 address."""
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The port of the address."""
        return int(self.address.rpartition(":")[2])

    def reached_at(self, port: int) -> str:
        """Returns the address at which clients reach the service, once its port is known."""
        return f"{self.host}:{port}" if self.socket is None else f"{_UNIX}{self.socket}"


@dataclass(frozen=True, slots=True)
class Store:
    """Where the store is, and how the service connects to it.

    Attributes:
        redis_url: URL of Redis; None starts the embedded store. Can contain a password, so it is not in the repr.
        redis_url_file: file that contains the URL.
        data_dir: data directory of the embedded store.
        fsync: when the embedded store flushes writes to disk: ``always`` or ``everysec``.
        key_prefix: prefix of all keys in Redis.
        partitions: number of partitions of a new store; None: 16 in a cluster, else 1.
        wait_replicas: number of replicas that must confirm a write before the service acknowledges it.
        timeout: limit in seconds for connecting to Redis, and for each reply.
    """

    redis_url: str | None = field(default=None, repr=False)
    redis_url_file: Path | None = None
    data_dir: Path = Path("userservice-data")
    fsync: str = "always"
    key_prefix: str = "userservice"
    partitions: int | None = None
    wait_replicas: int = 0
    timeout: float = field(default=3.0, metadata={_FLAG: "store_timeout"})

    def __post_init__(self) -> None:
        """Checks the key prefix, the number of partitions and the URL."""
        if not _KEY_PREFIX.fullmatch(self.key_prefix):
            raise ConfigError("--key-prefix must be 1 to 64 of the characters A-Z a-z 0-9 _ . : -")
        if self.partitions is not None and self.partitions not in _PARTITION_COUNTS:
            raise ConfigError("--partitions must be 1, 16 or 64")
        if self.wait_replicas and self.redis_url is None and self.redis_url_file is None:
            raise ConfigError("--wait-replicas requires --redis-url: the embedded store has no replicas")
        if self.redis_url is not None:
            check_redis_url(self.redis_url)

    @property
    def url(self) -> str:
        """The URL to connect to. For an embedded store, the URL is set when the store has started."""
        if self.redis_url is None:
            raise AssertionError("the embedded store has not started")
        return self.redis_url


@dataclass(frozen=True, slots=True)
class Limits:
    """How long calls may take, and how many calls may run at the same time.

    Attributes:
        call_timeout: seconds that a unary call may take.
        stall_timeout: seconds after which a stream is closed if its client reads nothing.
        max_calls: concurrent calls per process, at most half of them streams; more are rejected.
    """

    call_timeout: float = 10.0
    stall_timeout: float = 300.0
    max_calls: int = 1000


@dataclass(frozen=True, slots=True)
class Process:
    """The serving processes.

    Attributes:
        workers: number of serving processes.
        grace: seconds that running calls get to finish at shutdown.
        read_only: whether calls that write are rejected.
    """

    workers: int = 1
    grace: float = 10.0
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Observability:
    """What the service logs and measures.

    Attributes:
        log_level: lowest level that is logged to standard error.
        access_log: whether successful calls are logged too.
        log_handler: MODULE:FUNCTION that creates a handler for all log lines; None: there is none.
        audit_log: file for the audit log; None: there is none.
        metrics_listen: HOST:PORT of the metrics; None: there are none.
    """

    log_level: str = "info"
    access_log: bool = True
    log_handler: str | None = None
    audit_log: Path | None = None
    metrics_listen: str | None = None

    def __post_init__(self) -> None:
        """Checks the name of the handler and the address of the metrics."""
        if self.log_handler is not None and not _FUNCTION.fullmatch(self.log_handler):
            raise ConfigError("--log-handler must be MODULE:FUNCTION, such as my_company.logs:create_handler")
        if self.metrics_listen is not None:
            _check_address(self.metrics_listen, "--metrics-listen")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings."""

    listen: Listen = field(default_factory=Listen)
    tls: Tls = field(default_factory=Tls)
    auth: Auth = field(default_factory=Auth)
    store: Store = field(default_factory=Store)
    limits: Limits = field(default_factory=Limits)
    process: Process = field(default_factory=Process)
    observability: Observability = field(default_factory=Observability)

    def __post_init__(self) -> None:
        """Checks that times are finite, and what concerns two sections."""
        if "mtls" in self.auth.kinds and not self.tls.requires_certificates:
            raise ConfigError("--auth mtls requires --tls-client-auth require")
        if self.listen.socket is not None and self.process.workers > 1:
            raise ConfigError("--listen unix: requires --workers 1, because processes cannot share a Unix socket")
        for section in fields(self):
            values = getattr(self, section.name)
            for setting in fields(values):
                value = getattr(values, setting.name)
                if isinstance(value, float) and not math.isfinite(value):
                    raise ConfigError(f"--{_flag(setting).replace('_', '-')} must be a finite number of seconds")

    @classmethod
    def from_flags(cls, values: Mapping[str, Any]) -> Self:
        """Creates the settings from the values of flags; a setting without a value has its default.

        Args:
            values: maps the name of a flag, with underscores, to its value.

        Raises:
            ConfigError: A value is invalid.
        """
        sections = {}
        for section in fields(cls):
            kind: Any = section.default_factory
            flags = {setting.name: _flag(setting) for setting in fields(kind)}
            sections[section.name] = kind(**{name: values[flag] for name, flag in flags.items() if flag in values})
        return cls(**sections)

    @property
    def concerns_callers(self) -> bool:
        """Whether callers are authenticated or connections encrypted."""
        return self.tls.cert is not None or bool(self.auth.kinds)

    def with_store_at(self, url: str) -> Self:
        """Returns a copy of these settings with another URL of the store."""
        return replace(self, store=replace(self.store, redis_url=url))

    def with_port(self, port: int) -> Self:
        """Returns a copy of these settings with another port to listen on."""
        return replace(self, listen=replace(self.listen, address=self.listen.reached_at(port)))


def _check_address(address: str, flag: str) -> None:
    match = _LISTEN.fullmatch(address)
    if match is None or int(match["port"]) > _MAX_PORT:
        form = "HOST:PORT or unix:PATH" if flag == "--listen" else "HOST:PORT"
        raise ConfigError(f"{flag} must be {form}, with a port from 0 to {_MAX_PORT}")


def _check_socket(path: str) -> None:
    if not path.strip("/") or path.endswith("/") or (path.startswith("//") and not path.startswith("///")):
        raise ConfigError("--listen unix: must contain the path of a file, as in unix:/run/userservice.sock")
    if not path.isprintable() or _UNFIT_IN_SOCKET_PATH.search(path):
        raise ConfigError("--listen: the path of a Unix socket must not contain , % ? # or control characters")
    if len(path.encode()) > _MAX_SOCKET_PATH:
        raise ConfigError(f"--listen: the path of a Unix socket must be at most {_MAX_SOCKET_PATH} bytes")


def _flag(setting: "Field[Any]") -> str:
    return str(setting.metadata.get(_FLAG, setting.name))


def default_of(flag: str) -> Any:
    """Returns the default value of a flag."""
    return _DEFAULTS[flag]


_DEFAULTS = {
    _flag(setting): setting.default
    for section in (Listen, Tls, Auth, Store, Limits, Process, Observability)
    for setting in fields(section)
}
