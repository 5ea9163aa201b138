"""The retry times of rejected callers."""

import asyncio

import pytest

from userservice_server.transport import admission
from userservice_server.transport.admission import RetryDelays


async def test_rejected_callers_get_staggered_retry_times_of_bounded_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 100.0)  # all are rejected in one moment
    retry_delays = RetryDelays()
    delays = [round(retry_delays.next(), 6) for _ in range(20_000)]
    assert min(delays) >= admission._SOONEST_RETURN
    assert max(delays) <= admission._LATEST_RETURN
    first = delays[:1000]
    assert first == sorted(first)
    assert first[-1] > first[0] + 1, "they come back all at once"
