"""The settings of the service in sections, checked before anything starts."""

from userservice_server.config.callers import Auth, Tls
from userservice_server.config.error import ConfigError
from userservice_server.config.redis_url import StoreUrl, Topology, has_password, unreadable_redis_url
from userservice_server.config.settings import Config, Limits, Listen, Observability, Process, Store

__all__ = [
    "Auth",
    "Config",
    "ConfigError",
    "Limits",
    "Listen",
    "Observability",
    "Process",
    "Store",
    "StoreUrl",
    "Tls",
    "Topology",
    "has_password",
    "unreadable_redis_url",
]
