"""Where exceptions of redis-py end: what they mean to the service."""

from collections.abc import Iterator
from ssl import SSLCertVerificationError

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as LostError

from userservice_server.errors import StoreFullError, StoreUnavailableError

# Error replies that tell of the state of Redis, not of a mistake in the command: classes that redis-py has for them,
# and the first words of the others.
_STATE_CLASSES = (ReadOnlyError, ClusterDownError, TryAgainError)
_STATES = (
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "UNKILLABLE",
)


def unavailable(cause: BaseException | None = None) -> StoreUnavailableError:
    """The error for a store that does not answer. The cause is for the log."""
    error = StoreUnavailableError("the store is not available")
    error.__cause__ = cause
    return error


def translated(error: RedisError) -> Exception:
    """What an error reply means: the service's own error, or the reply's itself where only a bug can cause it.

    Not of those that redis-py takes for the end of a connection, such as LOADING and NOAUTH: connection.py does.
    """
    if isinstance(error, OutOfMemoryError) or str(error).startswith("OOM "):
        full = StoreFullError("the store has no memory left")
        full.__cause__ = error
        return full
    if isinstance(error, _STATE_CLASSES) or str(error).startswith(_STATES):
        return unavailable(error)
    return error


_WORDS: dict[type[BaseException], str] = {
    ReadOnlyError: "it is a read-only replica",
    BusyLoadingError: "it is loading its data",
    MasterDownError: "it is a replica whose master is away",
    LostError: "it closed the connection",
}


def why(error: BaseException) -> str:
    """The system's own words for what failed, if there are any: texts of redis-py can quote addresses."""
    for cause in _causes(error):
        if isinstance(cause, AuthenticationError):
            return "it refuses the user name or password"
        if isinstance(cause, NoPermissionError):
            return "its user lacks permissions, which docs/operations.md lists"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if cause.__cause__ is None and cause.__context__ is None:
            return _WORDS.get(type(cause), "no answer in time")
    return "no answer"


def is_final(error: BaseException) -> bool:
    """Tells whether it will be the same for as long as nobody changes the URL, the account or the certificate."""
    return any(isinstance(cause, (AuthenticationError, SSLCertVerificationError)) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
