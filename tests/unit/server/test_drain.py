"""When callers that are refused are to come back."""

import asyncio

import pytest

from userservice_server.transport import drain
from userservice_server.transport.drain import Drain


async def test_each_refused_caller_has_a_turn_of_its_own_and_none_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 100.0)  # all are refused in one moment
    draining = Drain(1)
    turns = [round(draining._next_return(), 6) for _ in range(20_000)]
    assert min(turns) >= drain._SOONEST_RETURN
    assert max(turns) <= drain._LATEST_RETURN
    first = turns[:1000]
    assert first == sorted(first)
    assert first[-1] > first[0] + 1, "they come back all at once"
