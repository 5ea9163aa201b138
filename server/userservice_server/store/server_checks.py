"""Checks over a new connection whether its server is suitable: version, topology, eviction, permissions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from redis.exceptions import MovedError, NoPermissionError, ResponseError

from userservice_server.errors import StoreFullError, StoreUnavailableError
from userservice_server.store import scripts
from userservice_server.store.connection import Send
from userservice_server.store.failures import UnsuitableStoreError
from userservice_server.store.running import run

_OF_A_CLUSTER = "the server is part of a cluster; use redis-cluster://HOST:PORT"


async def check_server(
    send: Send, layout_key: bytes, feed: bytes, commands: Sequence[str], *, in_cluster: bool
) -> None:
    """Loads the scripts; raises UnsuitableStoreError if the server is not suitable.

    Args:
        send: sends a command over the connection.
        layout_key: the key of the layout.
        feed: see ``check_permissions``.
        commands: see ``check_permissions``.
        in_cluster: whether the server should be part of a cluster.
    """
    await _check_configuration(send, in_cluster=in_cluster)
    await _load_scripts(send)
    await check_permissions(send, layout_key, feed, commands)


async def check_permissions(send: Send, layout_key: bytes, feed: bytes, commands: Sequence[str]) -> None:
    """Raises UnsuitableStoreError if the service needs a command that the user of the connection may not run.

    Args:
        send: sends a command over the connection.
        layout_key: the key of the layout.
        feed: the key of a feed of changes; empty if the feed is off, which then needs no permissions.
        commands: commands without keys that the service sends in addition to the scripts.
    """
    if missing := await run(send, scripts.PERMISSIONS, (), (layout_key, feed, *commands)):
        text = f"the Redis user lacks permissions, such as {missing.decode()}; docs/operations.md lists them"
        raise UnsuitableStoreError(text)


async def _check_configuration(send: Send, *, in_cluster: bool) -> None:
    try:
        lines = (await send("INFO", "server", "memory")).decode().splitlines()
    except StoreUnavailableError as error:
        if isinstance(error.__cause__, NoPermissionError):
            return  # the service itself does not need this permission
        raise
    info = dict(line.split(":", 1) for line in lines if ":" in line)
    if info.get("redis_mode") == "cluster" and not in_cluster:
        raise UnsuitableStoreError(_OF_A_CLUSTER)
    policy = info.get("maxmemory_policy", "")
    if policy.startswith("allkeys") and info.get("maxmemory") != "0":
        raise UnsuitableStoreError(f"the store may evict users: its maxmemory-policy is {policy}, not noeviction")


async def _load_scripts(send: Send) -> None:
    try:
        for loading in [send("SCRIPT", "LOAD", script.text) for script in scripts.ALL]:
            await loading
    except ResponseError as error:
        text = "the store rejects the Lua scripts; Redis 7.0 or Valkey 8, or later, is required"
        raise UnsuitableStoreError(text) from error


@contextmanager
def explaining(*, in_cluster: bool) -> Iterator[None]:
    """Raises UnsuitableStoreError with a text for the operator, for errors of the checks that have a known reason."""
    try:
        yield
    except StoreUnavailableError as error:
        if isinstance(error.__cause__, NoPermissionError):
            text = "the Redis user lacks permissions; docs/operations.md lists them"
            raise UnsuitableStoreError(text) from error.__cause__
        if isinstance(error.__cause__, MovedError) and not in_cluster:
            raise UnsuitableStoreError(_OF_A_CLUSTER) from error.__cause__
        raise
    except StoreFullError as error:
        raise UnsuitableStoreError("the store has no memory left, so its layout cannot be created") from error
    except ResponseError as error:
        raise UnsuitableStoreError("other data uses the key prefix: a key has an unexpected type") from error
