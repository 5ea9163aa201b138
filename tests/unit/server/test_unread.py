"""The limits on unread responses, without connections."""

from types import SimpleNamespace
from typing import Any

import pytest

from userservice_server.errors import OverloadedError
from userservice_server.transport import unread
from userservice_server.transport.unread import UnreadResponses


async def test_clients_of_a_unix_socket_have_only_the_limit_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """grpc gives all of them the same peer, so that they would share the limit of one connection."""
    monkeypatch.setattr(unread, "_MOST_BYTES_PER_CONNECTION", 10_000)
    monkeypatch.setattr(unread, "_MOST_BYTES", 30_000)
    responses = UnreadResponses()
    call: Any = SimpleNamespace(context=SimpleNamespace(peer=lambda: "unix:"), log_fields={})
    kept = []
    for _ in range(3):
        responses.check(call, 9000)
        kept.append(responses.add(call, bytes(9000)))
    with pytest.raises(OverloadedError):
        responses.check(call, 9000)
    assert call.log_fields == {"limit": "unread_bytes"}
    kept.clear()
    responses.check(call, 9000)
