"""Error replies of Redis, in the service's terms."""

from collections.abc import Callable

import pytest
from redis._parsers import BaseParser
from redis.exceptions import RedisError

from userservice_server.errors import StoreFullError, StoreUnavailableError
from userservice_server.store.failures import translated, why

parse_error: Callable[[str], RedisError] = BaseParser.parse_error  # redis-py does not type it

# As Redis 7.0 and Valkey 9 send them.
UNFIT = [
    "READONLY You can't write against a read only replica.",
    "NOREPLICAS Not enough good replicas to write.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "MOVED 3999 127.0.0.1:6381",
    "ASK 3999 127.0.0.1:6381",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "UNKILLABLE Sorry the script already executed write commands against the dataset.",
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "NOPERM User app has no permissions to run the 'eval' command",
    "ERR The user executing the script can't run this command or subcommand script: 01af5d51, on @user_script:2.",
    "ERR ACL failure in script: User app has no permissions to run the 'set' command script: on @user_script:2.",
]


@pytest.mark.parametrize("reply", UNFIT)
def test_a_server_that_rejects_commands_is_an_unavailable_store(reply: str) -> None:
    error = translated(parse_error(reply))
    assert isinstance(error, StoreUnavailableError)
    assert str(error) == "the store is not available"
    assert why(error).startswith(
        ("the server ", "the server's user lacks permissions", "a script keeps the server busy")
    )
    assert "127.0.0.1" not in why(error)


def test_a_full_store_is_not_unavailable() -> None:
    error = translated(parse_error("OOM command not allowed when used memory > 'maxmemory'."))
    assert isinstance(error, StoreFullError)


@pytest.mark.parametrize("reply", ["WRONGTYPE Operation against a key holding the wrong kind of value", "ERR syntax"])
def test_an_error_reply_caused_by_a_bug_is_not_mapped(reply: str) -> None:
    error = parse_error(reply)
    assert translated(error) is error
