"""Runs scripts in Redis."""

from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError

from userservice_server.store.connection import Send
from userservice_server.store.scripts import Script


async def run(send: Send, script: Script, redis_keys: Sequence[bytes], arguments: Sequence[bytes | str | int]) -> Any:
    """Runs a script over the connection of ``send``; returns its reply."""
    try:
        return await send("EVALSHA", script.sha1, len(redis_keys), *redis_keys, *arguments)
    except NoScriptError:  # Redis lost its scripts (restart, failover, flush); EVAL loads the script again
        return await send("EVAL", script.text, len(redis_keys), *redis_keys, *arguments)
