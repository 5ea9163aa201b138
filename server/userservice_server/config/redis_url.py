"""Checks the Redis URL. Error texts never contain the URL, because the URL can contain a password."""

import re
from urllib.parse import parse_qs, urlsplit

from userservice_server.config.error import ConfigError

_DATABASE_PATH = re.compile(r"(/[0-9]*)?/?")
_URL_OPTIONS = frozenset(("db", "username", "password"))


def unreadable_redis_url() -> ConfigError:
    """Returns the error for an invalid URL."""
    return ConfigError("--redis-url must be a URL such as redis://HOST:PORT/0, rediss://… or unix:///PATH")


def has_password(redis_url: str) -> bool:
    """Returns whether a valid URL contains a password."""
    parts = urlsplit(redis_url)
    return bool(parts.password or parse_qs(parts.query).get("password"))


def check_redis_url(url: str) -> None:
    """Checks a URL.

    Raises:
        ConfigError: redis-py would misread the URL, or would report the error only when it connects.
    """
    try:
        parts = urlsplit(url)
        _ = (parts.hostname or "").encode("idna"), parts.port
        options = parse_qs(parts.query, keep_blank_values=True)
    except ValueError:  # or its subclass UnicodeError
        raise unreadable_redis_url() from None
    if parts.scheme in ("redis", "rediss") and not _DATABASE_PATH.fullmatch(parts.path):
        raise ConfigError("--redis-url must end with a database number, as in redis://HOST:PORT/0")
    if any(name not in _URL_OPTIONS and not name.startswith("ssl_") for name in options):
        raise ConfigError("--redis-url has an unknown option; the known options are db, username, password and ssl_*")
