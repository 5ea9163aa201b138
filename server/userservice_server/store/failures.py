"""Maps the exceptions of redis-py to the service's own errors, and explains them to the operator."""

from collections.abc import Iterator
from ssl import SSLCertVerificationError

from redis.asyncio.sentinel import MasterNotFoundError as NoPrimaryError
from redis.exceptions import (
    AskError,
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
from redis.sentinel import MasterNotFoundError as NoPrimaryErrorOfCheck

from userservice_server.errors import StoreFullError, StoreUnavailableError


class UnconfirmedError(RedisError):
    """Too few replicas confirmed the writes of a batch in time; takes the place of the replies to the batch."""


# Error replies that describe the server, not a mistake in the command: the server rejects the command without executing
# it, and another server at the same address may execute it. redis-py has classes for some of them (and removes the
# error code from their texts); the others are recognised by how their texts begin.
_WRITES_REJECTED = "the server is a read-only replica"
_NO_MASTER = "the server is a replica that has lost its primary"
_NO_PRIMARY = "no Sentinel reports an available primary with this name"
_SENTINEL_REJECTS = "a Sentinel rejected the user name or password (sentinel_username, sentinel_password)"
_NO_PERMISSION = "the server's user lacks permissions; docs/operations.md lists them"
_CLUSTER = "the server is part of a Redis Cluster"
_UNFIT_CLASSES: dict[type[BaseException], str] = {
    UnconfirmedError: "too few replicas confirmed the writes in time",
    ReadOnlyError: _WRITES_REJECTED,
    MasterDownError: _NO_MASTER,  # before ClusterDownError, its base class
    ClusterDownError: _CLUSTER,
    TryAgainError: _CLUSTER,
    AskError: _CLUSTER,  # MOVED too
    NoPermissionError: _NO_PERMISSION,
}
_BUSY = "a script keeps the server busy"
_UNFIT_TEXTS = {
    "BUSY ": _BUSY,
    "UNKILLABLE ": _BUSY,
    "MISCONF ": "the server cannot write its data to disk and rejects writes",
    "NOREPLICAS ": "the server has too few replicas and rejects writes",
    # A command inside a script was rejected: Redis 7.0, then Redis 7.2 and Valkey.
    "The user executing the script can't": _NO_PERMISSION,
    "ACL failure in script": _NO_PERMISSION,
}
_UNKNOWN_COMMAND = ("unknown command", "ERR unknown command")
_NO_SUCH_DATABASE = ("DB index is out of range", "invalid DB index")


class UnsuitableStoreError(Exception):
    """The server answers, but its store cannot be used. The text is meant for the operator."""


class MovedAwayError(Exception):
    """Another server is the primary now."""


def unavailable(cause: BaseException | None = None) -> StoreUnavailableError:
    """Returns the error for a store that is unavailable. The cause appears only in the log."""
    error = StoreUnavailableError("the store is not available")
    error.__cause__ = cause
    return error


def _is_unfit(reply: RedisError) -> bool:
    return isinstance(reply, tuple(_UNFIT_CLASSES)) or str(reply).startswith(tuple(_UNFIT_TEXTS))


def translated(error: RedisError) -> Exception:
    """Returns the service's own error for an error reply, or the reply itself if only a bug can cause it.

    Replies that redis-py treats as the end of a connection, such as LOADING and NOAUTH, are never passed to this
    function: connection.py closes the connection.
    """
    if isinstance(error, OutOfMemoryError) or str(error).startswith("OOM "):
        full = StoreFullError("the store has no memory left")
        full.__cause__ = error
        return full
    return unavailable(error) if _is_unfit(error) else error


_OF_CLASSES: dict[type[BaseException], str] = {
    NoPrimaryError: _NO_PRIMARY,
    NoPrimaryErrorOfCheck: _NO_PRIMARY,
    AuthenticationError: "the server rejected the user name or password",
    BusyLoadingError: "the server is loading its data",
    InvalidResponse: "the server does not speak the Redis protocol",
    **_UNFIT_CLASSES,
}
_NOT_A_SERVER = "the server lacks commands that the service needs; for a Sentinel, use redis-sentinel://HOST:PORT/NAME"
_OF_TEXTS = {
    **_UNFIT_TEXTS,
    **dict.fromkeys(_UNKNOWN_COMMAND, _NOT_A_SERVER),
    **dict.fromkeys(_NO_SUCH_DATABASE, "the server has no database with this number"),
}


def why(error: BaseException) -> str:
    """Returns the reason of a failure, without texts of redis-py, because these can contain addresses."""
    causes = list(_causes(error))
    words = next(filter(None, map(_words, causes)), None)
    return words or ("the server closed the connection" if type(causes[-1]) is LostError else "no answer in time")


def _words(cause: BaseException) -> str | None:
    if isinstance(cause, UnsuitableStoreError):
        return str(cause)
    if isinstance(cause, MovedAwayError):
        return "the Sentinels have chosen another primary"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if not isinstance(cause, RedisError):
        return None
    if _is_rejected_by_sentinel(cause):
        return _SENTINEL_REJECTS
    of_text = next((words for start, words in _OF_TEXTS.items() if str(cause).startswith(start)), None)
    return of_text or next((words for kind, words in _OF_CLASSES.items() if isinstance(cause, kind)), None)


def is_loading(error: BaseException) -> bool:
    """Returns whether the server is loading its data; it becomes available afterwards."""
    return any(isinstance(cause, BusyLoadingError) for cause in _causes(error))


def is_final(error: BaseException) -> bool:
    """Returns whether retrying is pointless until the URL, the account or the certificate changes."""
    return any(
        isinstance(cause, (AuthenticationError, InvalidResponse, SSLCertVerificationError))
        or _is_mistaken(cause)
        or _is_rejected_by_sentinel(cause)
        for cause in _causes(error)
    )


def _is_rejected_by_sentinel(error: BaseException) -> bool:
    """Returns whether no Sentinel reports a primary and one rejected the password; only the error text shows this."""
    return isinstance(error, (NoPrimaryError, NoPrimaryErrorOfCheck)) and AuthenticationError.__name__ in str(error)


def _is_mistaken(error: BaseException) -> bool:
    """Returns whether the URL has a wrong database number, or leads to a server of another kind."""
    return isinstance(error, RedisError) and str(error).startswith((*_NO_SUCH_DATABASE, *_UNKNOWN_COMMAND))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
