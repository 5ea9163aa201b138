"""Where exceptions of redis-py end: what they mean to the service."""

from collections.abc import Iterator
from ssl import SSLCertVerificationError

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
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
_STATES = {
    "BUSY": "a script keeps it busy",
    "MISCONF": "it cannot write its data to disk, and refuses writes",
    "NOREPLICAS": "it has too few replicas, and refuses writes",
    "UNKILLABLE": "a script keeps it busy",
}
_NO_SUCH_DATABASE = ("DB index is out of range", "invalid DB index")


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
    if isinstance(error, _STATE_CLASSES) or str(error).startswith(tuple(_STATES)):
        return unavailable(error)
    return error


_OF_CLASSES: dict[type[BaseException], str] = {
    AuthenticationError: "it refuses the user name or password",
    NoPermissionError: "its user lacks permissions, which docs/operations.md lists",
    ReadOnlyError: "it is a read-only replica",
    BusyLoadingError: "it is loading its data",
    MasterDownError: "it is a replica whose master is away",
    InvalidResponse: "it does not speak the protocol of Redis",
}
_OF_TEXTS = {**_STATES, **dict.fromkeys(_NO_SUCH_DATABASE, "it has no database of that number")}


def why(error: BaseException) -> str:
    """What failed, in words of ours or the system's: texts of redis-py can quote addresses."""
    causes = list(_causes(error))
    words = next(filter(None, map(_words, causes)), None)
    return words or ("it closed the connection" if type(causes[-1]) is LostError else "no answer in time")


def _words(cause: BaseException) -> str | None:
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if not isinstance(cause, RedisError):
        return None
    of_text = next((words for start, words in _OF_TEXTS.items() if str(cause).startswith(start)), None)
    return of_text or next((words for kind, words in _OF_CLASSES.items() if isinstance(cause, kind)), None)


def is_final(error: BaseException) -> bool:
    """Tells whether it will be the same for as long as nobody changes the URL, the account or the certificate."""
    return any(
        isinstance(cause, (AuthenticationError, InvalidResponse, SSLCertVerificationError)) or _is_of_database(cause)
        for cause in _causes(error)
    )


def _is_of_database(error: BaseException) -> bool:
    return isinstance(error, RedisError) and str(error).startswith(_NO_SUCH_DATABASE)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
