"""The settings of the service, checked before anything starts."""

import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

_LISTEN = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]]+):(?P<port>[0-9]{1,5})")
_KEY_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_DATABASE_PATH = re.compile(r"(/[0-9]*)?/?")
_URL_OPTIONS = frozenset(("db", "username", "password"))
_MAX_PORT = 65535


class ConfigError(Exception):
    """The service cannot start with these settings. The text is one line for the operator; the exit code is 2."""


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of ``userservice serve``; the README's table describes each.

    Attributes:
        listen: HOST:PORT; port 0 selects a free port.
        redis_url: URL of Redis; None starts the embedded store. Can contain a password, so it is not in the repr.
        redis_url_file: file that contains the URL.
        data_dir: data directory of the embedded store.
        fsync: when the embedded store flushes writes to disk: ``always`` or ``everysec``.
        key_prefix: prefix of all keys in Redis.
        workers: number of serving processes.
        store_timeout: seconds that Redis may take to connect, and to reply.
        call_timeout: seconds that a unary call may take.
        stall_timeout: seconds without a read by the client after which a stream is closed.
        max_calls: concurrent calls per process, at most half of them streams; more are rejected.
        max_connection_age: seconds after which clients are told to connect again; 0 means never.
        max_connection_age_grace: seconds that calls on such a connection may still take.
        grace: seconds that running calls get to finish at a stop.
        log_level: lowest level that is logged to standard error.
        access_log: whether successful calls are logged too.
    """

    listen: str = "127.0.0.1:50051"
    redis_url: str | None = field(default=None, repr=False)
    redis_url_file: Path | None = None
    data_dir: Path = Path("userservice-data")
    fsync: str = "always"
    key_prefix: str = "userservice"
    workers: int = 1
    store_timeout: float = 3.0
    call_timeout: float = 10.0
    stall_timeout: float = 300.0
    max_calls: int = 1000
    max_connection_age: float = 0.0
    max_connection_age_grace: float = 600.0
    grace: float = 10.0
    log_level: str = "info"
    access_log: bool = True

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ConfigError: One of them is invalid.
        """
        address = _LISTEN.fullmatch(self.listen)
        if address is None or int(address["port"]) > _MAX_PORT:
            raise ConfigError(f"--listen must be HOST:PORT with a port from 0 to {_MAX_PORT}")
        if not _KEY_PREFIX.fullmatch(self.key_prefix):
            raise ConfigError("--key-prefix must be 1 to 64 of the characters A-Z a-z 0-9 _ . : -")
        if self.redis_url is not None:
            _check_redis_url(self.redis_url)
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"--{setting.name.replace('_', '-')} must be a finite number of seconds")

    @property
    def host(self) -> str:
        """The host of ``listen``, with brackets if it is an IPv6 address."""
        return self.listen.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The port of ``listen``."""
        return int(self.listen.rpartition(":")[2])


def unreadable_redis_url() -> ConfigError:
    """Error for an invalid URL. The text does not contain the URL, which can contain a password."""
    return ConfigError("--redis-url must be a URL such as redis://HOST:PORT/0, rediss://… or unix:///PATH")


def has_password(redis_url: str) -> bool:
    """Whether a valid URL contains a password."""
    parts = urlsplit(redis_url)
    return bool(parts.password or parse_qs(parts.query).get("password"))


def _check_redis_url(url: str) -> None:
    """Raises ConfigError for a URL that redis-py would misread, or that would fail only when it connects."""
    try:
        parts = urlsplit(url)
        _ = (parts.hostname or "").encode("idna"), parts.port
        options = parse_qs(parts.query, keep_blank_values=True)
    except ValueError:  # or its subclass UnicodeError
        raise unreadable_redis_url() from None
    if parts.scheme in ("redis", "rediss") and not _DATABASE_PATH.fullmatch(parts.path):
        raise ConfigError("--redis-url must end with the number of a database, as in redis://HOST:PORT/0")
    if any(name not in _URL_OPTIONS and not name.startswith("ssl_") for name in options):
        raise ConfigError("--redis-url may have the options db, username, password and those that begin with ssl_")
