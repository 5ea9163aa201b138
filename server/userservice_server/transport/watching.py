"""Runs the calls of WatchUsers: checks the request, and yields the messages for ``Streaming.send``."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from userservice.v1.user_watch_pb2 import WatchKind, WatchUsersRequest
from userservice_server.domain.feed import SESSIONS, USERS
from userservice_server.domain.validation import Checker
from userservice_server.domain.watches import Watches, WatchOptions
from userservice_server.errors import ServerShuttingDownError
from userservice_server.transport.call import Call
from userservice_server.transport.drain import Drain
from userservice_server.transport.streaming import Responses
from userservice_server.wire.watch_tokens import MAX_TOKEN_BYTES, Token

SESSIONS_SCOPE = "sessions.read"
DEFAULT_HEARTBEAT = 15
MAX_HEARTBEAT = 600
_BITS = {WatchKind.WATCH_KIND_USERS: USERS, WatchKind.WATCH_KIND_SESSIONS: SESSIONS}


async def responses(
    watches: Watches, drain: Drain, request: WatchUsersRequest, call: Call
) -> AsyncGenerator[Responses]:
    """Yields the messages of one call.

    Raises:
        ServerShuttingDownError: the server shuts down; the last message contains the token that resumes the watch.
    """
    options = _checked_options(request)
    if options.kinds & SESSIONS:
        call.require(SESSIONS_SCOPE)
    watch = await watches.open(options, lambda: drain.started)
    stopping = asyncio.create_task(drain.wait_for_start())
    stopping.add_done_callback(lambda _: watch.wake())
    try:
        async with aclosing(watch.messages()) as messages:
            async for message in messages:
                yield iter([(message.encoded, b"", message.users)])
    finally:
        stopping.cancel()
    raise ServerShuttingDownError("the server is shutting down; resume the watch", next_cursor=0)


def _checked_options(request: WatchUsersRequest) -> WatchOptions:
    start = request.WhichOneof("start")
    token = None
    with Checker() as check:
        if start is None:
            check.refuse("start", "is required: now, resume_token or snapshot")
        elif start == "resume_token":
            token = Token.parse(request.resume_token) if len(request.resume_token) <= MAX_TOKEN_BYTES else None
            if token is None:
                check.refuse("resume_token", "must be the resume_token of a message")
        elif not getattr(request, start):
            check.refuse(start, "must be true")
        if unknown := [kind for kind in request.kinds if kind not in _BITS]:
            check.refuse("kinds", f"must be WATCH_KIND_USERS or WATCH_KIND_SESSIONS, is {unknown[0]}")
        view = check.view(request.view)
        heartbeat = request.heartbeat_seconds
        if not 0 <= heartbeat <= MAX_HEARTBEAT:
            check.refuse("heartbeat_seconds", f"must be 1 to {MAX_HEARTBEAT}, or 0 for {DEFAULT_HEARTBEAT}")
    kinds = 0
    for kind in request.kinds:
        kinds |= _BITS[kind]
    return WatchOptions(kinds or USERS, view, heartbeat or DEFAULT_HEARTBEAT, token, start == "snapshot")
