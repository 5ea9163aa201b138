"""The service with handlers that fail: `python sabotaged.py serve …` with CANARY, WHERE and HOW in the environment.

The exceptions simulate bugs: exceptions of any kind, whose text must appear only in a debugger.
"""

import os
from typing import Any, NoReturn

import grpc
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ResponseError

from userservice_server import cli
from userservice_server.domain import listing, sessions, users
from userservice_server.store import redis_store
from userservice_server.transport import handlers, user_servicer
from userservice_server.transport.call import Call

CANARY = os.environ.get("CANARY", "")


def _chained() -> Exception:
    error = RuntimeError(CANARY)
    error.__cause__ = ValueError(CANARY)
    error.add_note(CANARY)
    return error


class CanaryError(Exception):
    """An exception whose texts all contain the canary."""

    def __str__(self) -> str:
        return CANARY

    __repr__ = __str__


HOW = {
    "ValueError": lambda: ValueError(CANARY),
    "KeyError": lambda: KeyError(CANARY),
    "OSError": lambda: OSError(5, CANARY, CANARY),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY),
    "chained": _chained,
    "ExceptionGroup": lambda: ExceptionGroup(CANARY, [ValueError(CANARY)]),
    "of redis": lambda: ResponseError(CANARY),
    "lost": lambda: LostError(CANARY),
    "every text": CanaryError,
}


def fail(*_: object, **__: object) -> NoReturn:
    make = HOW[os.environ["HOW"]]
    raise make()


async def fail_later(*_: object, **__: object) -> NoReturn:
    fail()


async def fail_while_streaming(*_: object, **__: object) -> Any:
    yield b"", 1
    fail()


async def abort(_servicer: object, _request: object, call: Call) -> NoReturn:
    """A handler that aborts the call itself, without the mapping of errors."""
    await call.context.abort(grpc.StatusCode.DATA_LOSS, "decided")


def sabotage(where: str) -> None:
    match where:
        case "decoding":
            handlers.GetMessageClass = lambda _: type("Broken", (), {"FromString": fail})  # type: ignore[assignment]
        case "domain":
            for domain in (users.Users, sessions.Sessions):
                for name in ("add", "get", "update", "delete", "list", "get_many"):
                    if hasattr(domain, name):
                        setattr(domain, name, fail_later)
            users.Users.stream = fail_while_streaming  # type: ignore[method-assign, assignment]
        case "store":
            redis_store.RedisStore._outcome = fail_later  # type: ignore[method-assign, assignment]
            redis_store.RedisStore.get_many = fail_later  # type: ignore[method-assign, assignment]
            listing.record_id = fail  # type: ignore[attr-defined, assignment]
            redis_store.RedisStore.newest = fail  # type: ignore[method-assign, assignment]
        case "aborted":
            user_servicer.UserServicer.GetUser = abort  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    sabotage(os.environ["WHERE"])
    cli.main()
