"""The service with faults: `python sabotaged.py serve …` with WHERE, and CANARY and HOW, in the environment.

Most faults are handlers that fail. Their exceptions simulate bugs: exceptions of any kind, whose text must appear only
in a debugger. One blocks the event loop for HOW_LONG seconds.
"""

import os
import time
from collections.abc import Callable
from typing import Any, NoReturn

import grpc
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ResponseError

from userservice_server import cli
from userservice_server.domain import imports, listing, sessions, users, watches
from userservice_server.store import redis_store
from userservice_server.transport import handlers, user_servicer
from userservice_server.transport.call import Call

CANARY = os.environ.get("CANARY", "")
HOW_LONG = os.environ.get("HOW_LONG", "0")


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


HOW: dict[str, Callable[[], Exception]] = {
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


async def block(_servicer: object, _request: object, _call: Call) -> bytes:
    """A handler that blocks the event loop."""
    time.sleep(float(HOW_LONG))  # noqa: ASYNC251 - on purpose
    return b""


def sabotage(where: str) -> None:
    match where:
        case "event loop":
            user_servicer.UserServicer.GetUser = block
        case "decoding":
            broken: Any = type("Broken", (), {"FromString": fail})
            handlers.GetMessageClass = lambda _: broken
            user_servicer.REQUEST_CLASSES.update(dict.fromkeys(user_servicer.REQUEST_CLASSES, broken))
        case "domain":
            for domain in (users.Users, sessions.Sessions):
                for name in (
                    "add",
                    "get",
                    "update",
                    "delete",
                    "list",
                    "plan",
                    "count",
                    "find",
                    "get_many",
                    "touch",
                    "revoke",
                ):
                    if hasattr(domain, name):
                        setattr(domain, name, fail_later)
            users.Users.stream = fail_while_streaming
            imports.Imports.open = imports.Imports.get = watches.Watches.open = fail_later
        case "store":
            redis_store.RedisStore._observed = fail_later
            listing.record_id = fail
            redis_store.RedisStore.newest = fail
        case "aborted":
            user_servicer.UserServicer.GetUser = abort


if __name__ in {"__main__", "__mp_main__"}:  # the service, or one of its workers
    sabotage(os.environ["WHERE"])

if __name__ == "__main__":
    cli.main()
