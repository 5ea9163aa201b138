"""Open streams end when their credential loses a scope that they need."""

import asyncio
from typing import Any

import pytest

from userservice_server.errors import CredentialsInvalidError, ScopeMissingError
from userservice_server.transport.call import Call
from userservice_server.transport.credentials.caller import Caller
from userservice_server.transport.credentials.open_streams import OpenStream, OpenStreams

NOTHING: Any = None


@pytest.mark.parametrize("removed", ["users.watch", "sessions.read"])
async def test_a_stream_ends_when_a_scope_of_its_method_or_of_its_options_is_removed(removed: str) -> None:
    scopes = {"users.watch", "sessions.read"}
    caller = Caller("key", "k", frozenset(scopes), expires_at=0)
    call = Call(NOTHING, NOTHING, scopes=caller.scopes)
    streams = OpenStreams(lambda _caller, scope: "" if scope in scopes else "scope removed")

    async def stream() -> None:
        with OpenStream(streams, call, caller, "users.watch"):
            call.require("sessions.read")
            await asyncio.sleep(0.4)  # the stream is checked, and continues
            scopes.remove(removed)
            await asyncio.sleep(5)

    with pytest.raises(CredentialsInvalidError):
        await stream()
    assert call.log_fields["credential_fault"] == "scope removed"


def test_a_scope_that_the_caller_does_not_have_is_not_required_later() -> None:
    call = Call(NOTHING, NOTHING, scopes=frozenset({"users.watch"}))
    with pytest.raises(ScopeMissingError):
        call.require("sessions.read")
    assert call.more_scopes == ()
